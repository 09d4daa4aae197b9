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
  // An error is seen, wherever the button was that led to it.
  new MutationObserver((changes) => {
    for (const change of changes) for (const node of change.addedNodes) {
      const found = node instanceof Element && (node.matches('.problem') ? node : node.querySelector('.problem'));
      if (found) found.scrollIntoView({block: 'nearest'});
    }
  }).observe(document.body, {childList: true, subtree: true});
  // Tab leaves a list, which Gradio's answer to the key would open again.
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Tab' && event.target.matches?.('[role=combobox]')) event.stopPropagation();
  }, true);
}
