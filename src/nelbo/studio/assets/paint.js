// A canvas on which pixels are marked, with the mouse, a finger, or the keyboard. props.value is
// {picture, width, height, marked}: a data URI, its size in pixels, and "0" or "1" for each pixel, row by row.
const canvas = element.querySelector('canvas');
const said = element.querySelector('[role=status]');
let state = null, painting = null, cursor = [0, 0], image = new Image();

const side = () => canvas.width / state.width;
function draw() {
  if (!state) return;  // an image that has gone before it came
  const pen = canvas.getContext('2d'), size = side();
  pen.imageSmoothingEnabled = false;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (image.complete && image.naturalWidth) pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  for (let y = 0; y < state.height; y++) for (let x = 0; x < state.width; x++) {
    if (state.marks[y * state.width + x] !== '1') continue;
    pen.fillStyle = 'rgba(37, 99, 235, .75)';
    pen.fillRect(x * size, y * size, size + .5, size + .5);
  }
  if (document.activeElement === canvas) {
    pen.strokeStyle = '#f59e0b'; pen.lineWidth = 3;
    pen.strokeRect(cursor[0] * size + 1.5, cursor[1] * size + 1.5, size - 3, size - 3);
  }
}
function load() {
  const value = props.value;
  if (!value || !value.picture) { state = null; canvas.hidden = true; said.textContent = ''; return; }
  state = {width: value.width, height: value.height, marks: value.marked.split('')};
  canvas.width = Math.round(512 / state.width) * state.width;
  canvas.height = canvas.width / state.width * state.height;
  canvas.hidden = false;
  image = new Image(); image.onload = draw; image.src = value.picture;
  count();
  draw();
}
function mark(x, y, on) {
  const radius = Math.max(0, Math.floor(Math.min(state.width, state.height) / 28));
  for (let j = y - radius; j <= y + radius; j++) for (let i = x - radius; i <= x + radius; i++)
    if (i >= 0 && j >= 0 && i < state.width && j < state.height) state.marks[j * state.width + i] = on ? '1' : '0';
}
function count() {
  const marks = state.marks.filter((each) => each === '1').length;
  said.textContent = marks === 0 ? 'Paint with the mouse, a finger, or the arrow keys and the space key.'
    : marks === 1 ? '1 pixel is marked.' : `${marks} pixels are marked.`;
}
function keep() {
  count();
  props.value = {...props.value, marked: state.marks.join('')};
}
function at(event) {
  const box = canvas.getBoundingClientRect();
  return [Math.floor((event.clientX - box.left) / box.width * state.width),
          Math.floor((event.clientY - box.top) / box.height * state.height)];
}
canvas.addEventListener('pointerdown', (event) => {
  if (!state) return;
  const [x, y] = at(event);
  painting = state.marks[y * state.width + x] !== '1';
  canvas.setPointerCapture(event.pointerId);
  cursor = [x, y]; mark(x, y, painting); draw();
});
canvas.addEventListener('pointermove', (event) => {
  if (painting === null || !state) return;
  const [x, y] = at(event), far = Math.max(Math.abs(x - cursor[0]), Math.abs(y - cursor[1]), 1);
  for (let k = 1; k <= far; k++)  // every pixel on the way from where the pointer was
    mark(Math.round(cursor[0] + (x - cursor[0]) * k / far), Math.round(cursor[1] + (y - cursor[1]) * k / far), painting);
  cursor = [x, y]; draw();
});
for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, () => {
  if (painting !== null && state) { painting = null; keep(); }
});
canvas.addEventListener('keydown', (event) => {
  const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  if (!state || (!step && event.key !== ' ')) return;
  event.preventDefault();
  if (step) {
    cursor = [Math.min(state.width - 1, Math.max(0, cursor[0] + step[0])),
              Math.min(state.height - 1, Math.max(0, cursor[1] + step[1]))];
    const on = state.marks[cursor[1] * state.width + cursor[0]] === '1';
    said.textContent = `Column ${cursor[0] + 1}, row ${cursor[1] + 1}${on ? ', marked' : ''}.`;
  } else {
    const place = cursor[1] * state.width + cursor[0];
    state.marks[place] = state.marks[place] === '1' ? '0' : '1';
    keep();
  }
  draw();
});
for (const name of ['focus', 'blur']) canvas.addEventListener(name, draw);
watch('value', load);
load();
