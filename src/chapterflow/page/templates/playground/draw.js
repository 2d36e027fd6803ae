// The first tab: a drawing, what the models see of it, and what every layer answers.

const [HEIGHT, WIDTH] = DATA.models[0].shape;
const LONGER = Math.max(HEIGHT, WIDTH);
// Samples along a pixel's side, and the side of the raster on which strokes are drawn.
const FINE = Math.ceil(112 / LONGER);
const drawing = {
  strokes: [], // each a list of [x, y] from 0 to 1
  example: null, // place of the test image below the strokes
  shift: [0, 0], // pixels of the model
  turn: 0, // degrees
  noise: 0,
  inverted: false,
  cursor: null, // [x, y] of the pen that is moved by keys
  down: false,
};
const EXAMPLES = readExamples();
const models = []; // {document, network}
const columns = []; // {model: place in models, outputs, ...elements}

function readExamples() {
  if (!DATA.examples) return null;
  const bytes = Uint8Array.from(atob(DATA.examples.images), (letter) => letter.charCodeAt(0));
  const count = DATA.examples.labels.length;
  const pixels = HEIGHT * WIDTH;
  // Ink, from 0 to 1: dark on light images too.
  const ink = (value) => (DATA.pen.dark ? value : DATA.valueMax - value) / DATA.valueMax;
  return Array.from({ length: count }, (_, i) => ({
    ink: Float32Array.from(bytes.subarray(i * pixels, (i + 1) * pixels), ink),
    label: DATA.examples.labels[i],
  }));
}

// The same noise as long as the pen moves: pixel i of image k.
function normal(k, i) {
  const uniform = (seed) => {
    let x = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b);
    x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
    return ((x ^ (x >>> 16)) >>> 0) / 2 ** 32;
  };
  const seed = 2 * (k * 4096 + i);
  return Math.sqrt(-2 * Math.log(uniform(seed) + 1e-9)) * Math.cos(2 * Math.PI * uniform(seed + 1));
}

// Raw values [height, width, 1], as in training, of ink on a raster of any size, after all changes.
function modelInput(ink, width, height, image = 0) {
  const samples = Math.max(4, Math.round(width / WIDTH));
  const angle = (-drawing.turn * Math.PI) / 180;
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  const values = new Float32Array(HEIGHT * WIDTH);
  for (let y = 0; y < HEIGHT; y++)
    for (let x = 0; x < WIDTH; x++) {
      let sum = 0;
      for (let j = 0; j < samples; j++)
        for (let i = 0; i < samples; i++) {
          // Each sample looks up where it was before the shift and the rotation.
          const u = x + (i + 0.5) / samples - drawing.shift[0] - WIDTH / 2;
          const v = y + (j + 0.5) / samples - drawing.shift[1] - HEIGHT / 2;
          const column = Math.floor(((u * cos - v * sin + WIDTH / 2) * width) / WIDTH);
          const row = Math.floor(((u * sin + v * cos + HEIGHT / 2) * height) / HEIGHT);
          if (column >= 0 && column < width && row >= 0 && row < height) sum += ink[row * width + column];
        }
      const place = y * WIDTH + x;
      let share = sum / samples ** 2;
      if (drawing.inverted) share = 1 - share;
      if (drawing.noise) share += drawing.noise * normal(image, place);
      share = Math.min(Math.max(share, 0), 1);
      // Training images hold whole numbers.
      values[place] = Math.round((DATA.pen.dark ? share : 1 - share) * DATA.valueMax);
    }
  return tensor([HEIGHT, WIDTH, 1], values);
}

// Strokes as ink on a raster, scaled and centred as the training images are, unless a test image
// lies below them.
function raster() {
  const [width, height] = [WIDTH * FINE, HEIGHT * FINE];
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const points = drawing.strokes.flat();
  let [scale, left, top] = [1, 0, 0];
  if (drawing.example === null && points.length) {
    const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
    const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    scale = Math.min((DATA.pen.extent - DATA.pen.width) / Math.max(x1 - x0, y1 - y0, 0.01), 3);
    [left, top] = [0.5 - (scale * (x0 + x1)) / 2, 0.5 - (scale * (y0 + y1)) / 2];
  }
  const paint = () => {
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    if (drawing.example !== null) {
      const image = context.createImageData(WIDTH, HEIGHT);
      EXAMPLES[drawing.example].ink.forEach((share, i) => image.data.fill(Math.round(255 * share), 4 * i, 4 * i + 3));
      for (let i = 3; i < image.data.length; i += 4) image.data[i] = 255;
      const small = new OffscreenCanvas(WIDTH, HEIGHT);
      small.getContext("2d").putImageData(image, 0, 0);
      context.imageSmoothingEnabled = false;
      context.drawImage(small, 0, 0, width, height);
    }
    trace(context, drawing.strokes, (x) => (left + scale * x) * width, (y) => (top + scale * y) * height, DATA.pen.width * LONGER * FINE);
    const bytes = context.getImageData(0, 0, width, height).data;
    return Float32Array.from({ length: width * height }, (_, i) => bytes[4 * i] / 255);
  };
  let ink = paint();
  if (drawing.example === null && points.length) {
    let [mass, sx, sy] = [1e-9, 0, 0];
    ink.forEach((share, i) => {
      mass += share;
      sx += share * ((i % width) + 0.5);
      sy += share * (Math.floor(i / width) + 0.5);
    });
    // The ink's centre of mass goes where training images have it, as far as the strokes stay inside.
    const room = (1 - DATA.pen.extent) / 2 + 0.06;
    const clamp = (value) => Math.min(Math.max(value, -room), room);
    left += clamp(DATA.pen.centre[0] - sx / mass / width);
    top += clamp(DATA.pen.centre[1] - sy / mass / height);
    ink = paint();
  }
  return { ink, width, height };
}

function trace(context, strokes, x, y, width) {
  context.strokeStyle = "#fff";
  context.lineWidth = width;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) {
    context.beginPath();
    stroke.forEach(([u, v], i) => (i ? context.lineTo(x(u), y(v)) : context.moveTo(x(u), y(v))));
    if (stroke.length === 1) context.lineTo(x(stroke[0][0]) + 0.01, y(stroke[0][1]));
    context.stroke();
  }
}

function isBlank() {
  return drawing.example === null && !drawing.strokes.length;
}

function currentInput() {
  const plain = !drawing.strokes.length && drawing.example !== null;
  if (plain) return modelInput(EXAMPLES[drawing.example].ink, WIDTH, HEIGHT);
  const { ink, width, height } = raster();
  return modelInput(ink, width, height);
}

function run(model, input) {
  return forward(model.network, { [model.network.layers[0].name]: input });
}

// One pass of all models on the page, as often as the screen is drawn.
let waiting = false;
function answerSoon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    answer();
  });
}

function answer() {
  drawing.input = currentInput();
  drawPad();
  drawSeen();
  for (const column of columns) showColumn(column);
  showInspector();
  countSoon();
}

function drawPad() {
  const canvas = $("pad");
  const context = canvas.getContext("2d");
  const side = canvas.width;
  context.fillStyle = "#000";
  context.fillRect(0, 0, side, side);
  if (drawing.example !== null) {
    const { ink } = EXAMPLES[drawing.example];
    ink.forEach((share, i) => {
      const grey = Math.round(255 * share);
      context.fillStyle = `rgb(${grey},${grey},${grey})`;
      const [x, y] = [i % WIDTH, Math.floor(i / WIDTH)];
      context.fillRect(Math.floor((x * side) / WIDTH), Math.floor((y * side) / HEIGHT), Math.ceil(side / WIDTH), Math.ceil(side / HEIGHT));
    });
  }
  trace(context, drawing.strokes, (x) => x * side, (y) => y * side, padPen() * side);
  if (isBlank()) {
    context.fillStyle = "#9aa4b2";
    context.font = "34px system-ui, sans-serif";
    context.textAlign = "center";
    context.fillText(t("draw-here"), side / 2, side / 2);
  }
  if (drawing.cursor && document.activeElement === canvas) {
    const [x, y] = drawing.cursor.map((share) => share * side);
    context.strokeStyle = drawing.down ? "#f2935f" : "#84a5ff";
    context.lineWidth = 4;
    context.beginPath();
    context.arc(x, y, 22, 0, 2 * Math.PI);
    context.stroke();
  }
}

// The pen on the pad, as wide as it will be in the scaled drawing of a digit of usual size.
const padPen = () => (drawing.example === null ? (0.75 * DATA.pen.width) / DATA.pen.extent : DATA.pen.width);

function drawSeen() {
  const canvas = $("seen");
  const context = canvas.getContext("2d");
  canvas.width = WIDTH;
  canvas.height = HEIGHT;
  const image = context.createImageData(WIDTH, HEIGHT);
  drawing.input.data.forEach((value, i) => {
    const grey = Math.round((255 * value) / DATA.valueMax);
    image.data.set([grey, grey, grey, 255], 4 * i);
  });
  context.putImageData(image, 0, 0);
  $("seen-note").textContent = t("seen-note", { height: HEIGHT, width: WIDTH, max: DATA.valueMax });
}

function makeColumns() {
  const holder = $("models");
  holder.classList.toggle("single", models.length === 1);
  for (let place = 0; place < Math.min(2, models.length); place++) {
    const column = { model: place };
    const name =
      models.length > 2
        ? make("select", {}, ...models.map(({ document }, i) => make("option", { value: i, textContent: document.name, selected: i === place })))
        : make("h2", { textContent: models[place].document.name });
    if (models.length > 2) {
      name.setAttribute("data-label", "choose-model");
      name.addEventListener("change", () => {
        column.model = Number(name.value);
        fillColumn(column);
        answerSoon();
      });
    }
    column.about = make("p", { className: "note" });
    column.answer = make("p", { className: "answer" });
    column.bars = make("ol", { className: "bars" });
    column.cam = make("canvas", { width: 192, height: 192, role: "img" });
    column.camNote = make("p", { className: "note" });
    column.look = make("div", { className: "look" }, column.cam, column.camNote);
    column.layers = make("ol", { className: "layers" });
    holder.append(make("article", { className: "model" }, make("header", {}, name), column.about, column.answer, column.bars, column.look, column.layers));
    columns.push(column);
    fillColumn(column);
  }
}

// Layers that only pass values on: they need no picture.
const PLAIN = ["InputLayer", "Identity", "Flatten", "Rescaling"];

function fillColumn(column) {
  const { document, network } = models[column.model];
  column.bars.replaceChildren(...document.classes.map((name) => make("li", {}, make("span", { textContent: name }), make("i"), make("span"))));
  column.layers.replaceChildren();
  column.maps = [];
  const outputs = run(models[column.model], tensor([HEIGHT, WIDTH, 1]));
  column.outputs = outputs;
  for (const layer of network.layers) {
    if (PLAIN.includes(layer.type)) continue;
    const { shape } = outputs.get(layer.name);
    const canvas = make("canvas", { className: "maps", role: "slider", "aria-valuemin": 1 });
    const entry = { layer, canvas, ...mosaic(shape) };
    canvas.setAttribute("aria-valuemax", entry.channels);
    const pick = (channel, place) => inspect(column, layer, Math.min(Math.max(channel, 0), entry.channels - 1), place);
    const point = (event, opens) => {
      const box = canvas.getBoundingClientRect();
      const x = Math.floor(((event.clientX - box.left) / box.width) * canvas.width);
      const y = Math.floor(((event.clientY - box.top) / box.height) * canvas.height);
      const channel = Math.floor(y / entry.stepY) * entry.across + Math.floor(x / entry.stepX);
      if (channel < 0 || channel >= entry.channels) return;
      const within = [x % entry.stepX, y % entry.stepY].map((at, i) => Math.min(at, [entry.width, entry.height][i] - 1));
      pick(channel, within);
      if (opens) openInspector();
    };
    canvas.tabIndex = 0;
    canvas.addEventListener("pointermove", (event) => event.pointerType === "mouse" && point(event));
    canvas.addEventListener("click", (event) => point(event, true));
    canvas.addEventListener("focus", () => canvas.matches(":focus-visible") && pick(pickedChannel(column, layer)));
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -entry.across, ArrowDown: entry.across }[event.key];
      if (event.key === "Enter") openInspector();
      if (!step) return;
      event.preventDefault();
      pick(pickedChannel(column, layer) + step);
    });
    column.maps.push(entry);
    entry.title = make("h3");
    column.layers.append(make("li", {}, entry.title, canvas));
  }
}

// How the maps of a layer, or the numbers of a vector, are arranged in one canvas.
function mosaic(shape) {
  const vector = shape.length === 1;
  const [height, width] = vector ? [1, 1] : shape;
  const channels = shape.at(-1);
  const gap = vector ? 0 : 1;
  // As many maps in a row as keep the picture within the column.
  const pixel = vector ? 8 : Math.max(1, Math.round(30 / Math.max(width, 8)));
  const wanted = Math.max(1, Math.floor(272 / (pixel * (width + gap))));
  const across = Math.min(channels, vector ? Math.min(wanted, 32) : wanted > 8 ? 8 * Math.floor(wanted / 8) : wanted);
  return { vector, height, width, channels, across, pixel, stepX: width + gap, stepY: height + gap };
}

function shapeText(shape) {
  if (shape.length === 1) return t("shape-vector", { count: shape[0] });
  return t(shape[2] === 1 ? "shape-map" : "shape-maps", { height: shape[0], width: shape[1], count: shape[2] });
}

const typeText = (layer) => (DATA.words[`type-${layer.type}`] ? t(`type-${layer.type}`) : layer.type);

function showColumn(column) {
  const model = models[column.model];
  const { document, network } = model;
  const started = performance.now();
  column.outputs = run(model, drawing.input);
  column.milliseconds = performance.now() - started;
  const accuracy = document.accuracy === null ? "?" : percent(document.accuracy);
  column.about.textContent = t("about", { version: document.version, parameters: document.parameters.toLocaleString("en"), accuracy });
  const probabilities = softmax(column.outputs.get(network.output).data);
  const best = probabilities.indexOf(Math.max(...probabilities));
  const blank = isBlank();
  const label = drawing.example === null || drawing.strokes.length ? null : EXAMPLES[drawing.example].label;
  column.answer.className = "answer";
  column.answer.textContent = blank ? t("no-drawing") : t("answer", { name: document.classes[best], share: percent(probabilities[best]) });
  if (!blank && label !== null) {
    const right = document.classes[best] === label;
    column.answer.classList.add(right ? "good" : "bad");
    column.answer.textContent += right ? " ✓" : ` ✗ ${t("true-class", { name: label })}`;
  }
  [...column.bars.children].forEach((bar, i) => {
    const share = blank ? 0 : probabilities[i];
    bar.classList.toggle("best", !blank && i === best);
    bar.children[1].style.width = `${100 * share}%`;
    bar.children[2].textContent = blank ? "–" : percent(share);
  });
  showCam(column, best, blank);
  for (const entry of column.maps) showMaps(column, entry);
}

function showMaps(column, entry) {
  const { layer, canvas } = entry;
  const output = column.outputs.get(layer.name);
  canvas.width = entry.across * entry.stepX - (entry.vector ? 0 : 1);
  canvas.height = Math.ceil(entry.channels / entry.across) * entry.stepY - (entry.vector ? 0 : 1);
  canvas.style.width = `${canvas.width * entry.pixel}px`;
  const context = canvas.getContext("2d");
  const scale = largest(output.data);
  if (entry.vector) {
    output.data.forEach((value, i) => {
      context.fillStyle = shadeText(value / scale);
      context.fillRect(i % entry.across, Math.floor(i / entry.across), 1, 1);
    });
  } else {
    const drawOne = (c, frame) => {
      const [left, top] = [(c % entry.across) * entry.stepX, Math.floor(c / entry.across) * entry.stepY];
      context.fillStyle = frame;
      context.fillRect(left - 1, top - 1, entry.width + 2, entry.height + 2);
      drawMap(context, output, c, scale, left, top);
    };
    for (let c = 0; c < entry.channels; c++) drawOne(c, colours.lineText);
    // Last, so that its frame is whole.
    if (picked.column === column && picked.layer === layer) drawOne(picked.channel, colours.markText);
  }
  entry.title.replaceChildren(`${layer.name}: ${typeText(layer)} `, make("span", { className: "shape", textContent: shapeText(output.shape) }));
  const channel = pickedChannel(column, layer);
  canvas.setAttribute("aria-label", t(entry.vector ? "maps-vector" : "maps", { layer: layer.name }));
  canvas.setAttribute("aria-valuenow", channel + 1);
  canvas.setAttribute("aria-valuetext", t("of", { number: channel + 1, count: entry.channels }));
}

function showCam(column, best, blank) {
  const model = models[column.model];
  const layer = camLayer(model.network, column.outputs);
  column.cam.hidden = !layer;
  if (!layer) {
    column.camNote.textContent = t("cam-none", { name: model.document.name });
    return;
  }
  const cam = gradCam(model.network, column.outputs, best);
  const context = column.cam.getContext("2d");
  const { width } = column.cam;
  const height = (column.cam.height = Math.round((width * HEIGHT) / WIDTH));
  const heat = resized(cam, height, width);
  const scale = largest(cam.data);
  const image = context.createImageData(width, height);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const i = y * width + x;
      const value = drawing.input.data[Math.floor((y * HEIGHT) / height) * WIDTH + Math.floor((x * WIDTH) / width)];
      const grey = 200 * (value / DATA.valueMax) + 20;
      const strength = blank ? 0 : (0.75 * heat.data[i]) / scale;
      image.data.set([grey + (255 - grey) * strength, grey + (110 - grey) * strength, grey * (1 - strength), 255], 4 * i);
    }
  context.putImageData(image, 0, 0);
  const name = model.document.classes[best];
  column.camNote.textContent = blank ? t("cam-blank") : t("cam", { name, layer });
  column.cam.setAttribute("aria-label", column.camNote.textContent);
}

// Right answers on a sample of the test images, changed as the drawing is; computed between frames.
let counting = 0;
function countSoon() {
  if (!EXAMPLES) return;
  const key = JSON.stringify([drawing.shift, drawing.turn, drawing.noise, drawing.inverted, columns.map((c) => c.model)]);
  if (key === countSoon.key) return;
  countSoon.key = key;
  const mine = ++counting;
  const sample = DATA.examples.counted;
  const right = columns.map(() => 0);
  let at = 0;
  const step = () => {
    if (mine !== counting) return;
    const until = performance.now() + 8;
    while (at < sample.length && performance.now() < until) {
      const { ink, label } = EXAMPLES[sample[at++]];
      const input = modelInput(ink, WIDTH, HEIGHT, at);
      columns.forEach((column, i) => {
        const model = models[column.model];
        const logits = run(model, input).get(model.network.output).data;
        const best = logits.indexOf(Math.max(...logits));
        right[i] += model.document.classes[best] === label;
      });
    }
    if (at < sample.length) setTimeout(step, 0);
    else showCount(right, sample.length);
  };
  setTimeout(step, 60);
}

function showCount(right, of) {
  showCount.last = [right, of];
  const table = make("table", {}, make("caption", { textContent: t("count", { of }) }));
  const body = table.createTBody();
  columns.forEach((column, i) => {
    const row = body.insertRow();
    row.append(make("th", { scope: "row", textContent: models[column.model].document.name }), make("td", { textContent: t("right", { right: right[i], of }) }));
  });
  $("count").replaceChildren(table);
}

function showExamples() {
  const holder = $("examples");
  holder.replaceChildren();
  if (!EXAMPLES) {
    holder.append(make("p", { className: "note", textContent: t("no-examples") }));
    return;
  }
  const kinds = [...new Set(DATA.examples.chosen.map(([kind]) => kind))];
  for (const kind of kinds) {
    const words = kind === "class" ? t("one-each") : t("only-right", { name: kind });
    const thumbs = make("div", { className: "thumbs", role: "group", "aria-label": words });
    for (const [, place] of DATA.examples.chosen.filter(([other]) => other === kind)) {
      const { ink, label } = EXAMPLES[place];
      const canvas = make("canvas", { width: WIDTH, height: HEIGHT });
      const context = canvas.getContext("2d");
      const image = context.createImageData(WIDTH, HEIGHT);
      ink.forEach((share, i) => image.data.set([255 * share, 255 * share, 255 * share, 255], 4 * i));
      context.putImageData(image, 0, 0);
      const button = make("button", { type: "button", "aria-label": t("example", { label, index: DATA.examples.index[place] }) }, canvas);
      button.addEventListener("click", () => {
        Object.assign(drawing, { example: place, strokes: [], down: false });
        answerSoon();
      });
      thumbs.append(button);
    }
    holder.append(make("p", { className: "note", textContent: words }), thumbs);
  }
}

function showLeftOut() {
  const holder = $("left-out");
  holder.replaceChildren();
  if (!DATA.leftOut.length) return;
  const list = DATA.leftOut.map(({ model, reason }) => make("li", { textContent: `${model}: ${reason}`, lang: "en" }));
  holder.append(make("details", {}, make("summary", { textContent: t("left-out", { count: list.length }) }), make("ul", {}, ...list)));
}

function startDrawing() {
  const pad = $("pad");
  const place = (event) => {
    const box = pad.getBoundingClientRect();
    const share = (at, low, length) => Math.min(Math.max((at - low) / length, 0), 1);
    return [share(event.clientX, box.left, box.width), share(event.clientY, box.top, box.height)];
  };
  let pointer = null;
  pad.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    pad.setPointerCapture(event.pointerId);
    pointer = event.pointerId;
    drawing.cursor = null;
    drawing.strokes.push([place(event)]);
    answerSoon();
  });
  pad.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer) return;
    // A fast pen moves several times between two frames.
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) drawing.strokes.at(-1).push(place(each));
    answerSoon();
  });
  for (const name of ["pointerup", "pointercancel"])
    pad.addEventListener(name, () => (pointer = null));
  const undo = () => {
    if (drawing.strokes.length) drawing.strokes.pop();
    else drawing.example = null;
    drawing.down = false;
    answerSoon();
  };
  const clear = () => {
    Object.assign(drawing, { strokes: [], example: null, down: false });
    answerSoon();
  };
  pad.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const undoes = event.key === "Backspace" || (event.key === "z" && (event.ctrlKey || event.metaKey));
    drawing.cursor ??= [0.5, 0.5];
    if (step) {
      drawing.cursor = drawing.cursor.map((share, i) => Math.min(Math.max(share + step[i] / 16, 0), 1));
      if (drawing.down) drawing.strokes.at(-1).push(drawing.cursor);
    } else if (event.key === " ") {
      drawing.down = !drawing.down;
      if (drawing.down) drawing.strokes.push([drawing.cursor]);
    } else if (undoes) undo();
    else if (event.key === "Delete") clear();
    else return;
    event.preventDefault();
    answerSoon();
  });
  pad.addEventListener("focus", () => {
    if (pad.matches(":focus-visible")) drawing.cursor ??= [0.5, 0.5];
    answerSoon();
  });
  pad.addEventListener("blur", answerSoon);
  $("undo").addEventListener("click", undo);
  $("clear").addEventListener("click", clear);

  const most = Math.max(2, Math.round(LONGER / 5));
  const change = (apply) => (value) => {
    apply(value);
    answerSoon();
  };
  const sliders = [
    slider($("changes"), { word: "shift-right", min: -most, max: most, value: 0, unit: " px" }, change((value) => (drawing.shift[0] = value))),
    slider($("changes"), { word: "shift-down", min: -most, max: most, value: 0, unit: " px" }, change((value) => (drawing.shift[1] = value))),
    slider($("changes"), { word: "rotate", min: -90, max: 90, step: 5, value: 0, unit: "°" }, change((value) => (drawing.turn = value))),
    slider($("changes"), { word: "noise", min: 0, max: 0.6, step: 0.05, value: 0 }, change((value) => (drawing.noise = value))),
  ];
  $("invert").addEventListener("change", () => {
    drawing.inverted = $("invert").checked;
    answerSoon();
  });
  $("reset").addEventListener("click", () => {
    for (const each of sliders) each.set(0);
    $("invert").checked = false;
    Object.assign(drawing, { shift: [0, 0], turn: 0, noise: 0, inverted: false });
    answerSoon();
  });
}
