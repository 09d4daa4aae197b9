() => {
  // A report has its full height; it runs no scripts, so its height is measured from here.
  document.addEventListener('load', (event) => {
    const frame = event.target;
    if (!(frame instanceof HTMLIFrameElement) || !frame.matches('.report') || !frame.contentDocument) return;
    const root = frame.contentDocument.documentElement;
    const fit = () => { frame.style.height = `${Math.ceil(root.getBoundingClientRect().height) + 2}px`; };
    new ResizeObserver(fit).observe(root);
    fit();
  }, true);
  // An error is seen, wherever the button was that led to it. A result of another run than the chosen one says so.
  const words = () => new URLSearchParams(location.hash.slice(1));
  const kept = (changes) => history.replaceState({nelbo: true}, '', '#' + new URLSearchParams({...Object.fromEntries(words()), ...changes}));
  const marked = (result) => {
    const of = result.querySelector('[data-run]')?.dataset.run;
    result.classList.toggle('old', of !== undefined && of !== window.nelboRun);
  };
  new MutationObserver((changes) => {
    for (const change of changes) {
      const result = change.target.closest?.('.result');
      if (result) marked(result);
      for (const node of change.addedNodes) {
        const found = node instanceof Element && (node.matches('.problem') ? node : node.querySelector('.problem'));
        if (found) found.scrollIntoView({block: 'nearest'});
      }
    }
  }).observe(document.body, {childList: true, subtree: true});
  // The address has the screen and the run.
  window.nelboChosen = () => {
    kept({run: window.nelboRun});
    document.querySelectorAll('.result').forEach(marked);
  };
  if (window.nelboRun !== undefined) window.nelboChosen();
  // The click itself, since Gradio's event of it can come after the reader has gone back.
  const tab = (element) => /^screen-(\w+)-button$/.exec(element?.id || '')?.[1];
  let back = false;
  addEventListener('click', (event) => {
    const name = tab(event.target.closest?.('[role=tab]'));
    if (!name || back) return;
    const before = tab(document.querySelector('#screens [role=tab][aria-selected=true]'));
    if (!before || before === name) return;
    kept({screen: before});
    history.pushState({nelbo: true}, '', location.href);
    kept({screen: name});
  }, true);
  addEventListener('popstate', (event) => {
    if (!event.state?.nelbo) { location.reload(); return; }  // an address that was typed
    const name = words().get('screen');
    if (window.nelboRun !== undefined) kept({run: window.nelboRun});
    back = true;
    if (/^\w+$/.test(name || '')) document.getElementById(`screen-${name}-button`)?.click();
    back = false;
  });
  // The browser asks before it leaves work behind that would end with the page.
  addEventListener('beforeunload', (event) => { if (document.querySelector('progress.work')) event.preventDefault(); });
  // The box of a slider that is emptied on the way to another number is not a number yet.
  const slider = (box) => box.value === '' && box.matches('input[type=number]')
    ? box.closest('.block')?.querySelector('input[type=range]') : null;
  document.addEventListener('input', (event) => { if (event.target instanceof HTMLInputElement && slider(event.target)) event.stopPropagation(); }, true);
  document.addEventListener('focusout', (event) => {
    const range = event.target instanceof HTMLInputElement && slider(event.target);
    if (range) event.target.value = range.value;
  }, true);
  // Tab leaves a list, which Gradio's answer to the key would open again.
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Tab' && event.target.matches?.('[role=combobox]')) event.stopPropagation();
  }, true);
}
