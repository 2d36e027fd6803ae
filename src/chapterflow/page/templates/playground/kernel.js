// The second tab: one small picture, one kernel, and how the output's size follows from the settings.

// Numbers from 0 to 9, so that every sum can be checked in the head.
const PICTURES = {
  house: [
    "000000000000", "000001100000", "000019910000", "000199991000", "001999999100", "019999999910",
    "000555555000", "000500005000", "000505505000", "000505505000", "000505555000", "000000000000",
  ],
  cross: [
    "000000000000", "009000000900", "000900009000", "000090090000", "000009900000", "000009900000",
    "000090090000", "000900009000", "009000000900", "000000000000", "333333333333", "000000000000",
  ],
  stairs: [
    "900000000000", "990000000000", "999000000000", "999900000000", "999990000000", "999999000000",
    "999999900000", "999999990000", "999999999000", "999999999900", "999999999990", "999999999999",
  ],
};
// The same house in colour: red roof, blue walls, green grass.
const COLOURED = PICTURES.house.map((row, y) =>
  [...row].map((digit) => {
    const value = Number(digit);
    if (y === 11) return [0, 7, 0];
    if (value === 5) return [1, 2, 8];
    return value ? [value, Math.floor(value / 4), 0] : [2, 4, 6];
  }),
);
const KERNELS = {
  vertical: [-1, 0, 1, -1, 0, 1, -1, 0, 1],
  horizontal: [-1, -1, -1, 0, 0, 0, 1, 1, 1],
  blur: Array(9).fill(1 / 9),
  sharpen: [0, -1, 0, -1, 5, -1, 0, -1, 0],
  unchanged: [0, 0, 0, 0, 1, 0, 0, 0, 0],
};
const MIXES = { grey: [0.3, 0.6, 0.1], "red-only": [1, 0, 0], "blue-not-red": [-1, 0, 1] };
const OPERATIONS = ["convolution", "max-pooling", "average-pooling", "pointwise"];
const lab = {
  operation: "convolution", picture: "house", kernel: [...KERNELS.vertical], mix: [...MIXES.grey],
  stride: 1, padding: 0, dilation: 1, pool: 2, place: [2, 3], timer: null,
};
const labSliders = {};
// The same for input and output, so that their sizes compare; smaller with a border.
const labCell = () => (isPointwise() ? 20 : [28, 25, 22][labSettings().p]);

const isConvolution = () => lab.operation === "convolution";
const isPointwise = () => lab.operation === "pointwise";
// The settings that the operation has.
function labSettings() {
  if (isPointwise()) return { k: 1, s: 1, p: 0, d: 1 };
  if (isConvolution()) return { k: 3, s: lab.stride, p: lab.padding, d: lab.dilation };
  return { k: lab.pool, s: lab.stride, p: 0, d: 1 };
}

const labPicture = () => PICTURES[lab.picture].map((row) => [...row].map(Number));

function labSide() {
  const { k, s, p, d } = labSettings();
  return Math.floor((12 + 2 * p - d * (k - 1) - 1) / s) + 1;
}

// Numbers of the window at a place of the output, row by row; the border counts as 0.
function labWindow([x, y]) {
  const { k, s, p, d } = labSettings();
  const picture = labPicture();
  const values = [];
  for (let j = 0; j < k; j++) for (let i = 0; i < k; i++) values.push(picture[y * s + j * d - p]?.[x * s + i * d - p] ?? 0);
  return values;
}

function labValue(place) {
  if (isPointwise()) return COLOURED[place[1]][place[0]].reduce((sum, value, c) => sum + value * lab.mix[c], 0);
  const values = labWindow(place);
  if (isConvolution()) return values.reduce((sum, value, i) => sum + value * lab.kernel[i], 0);
  return lab.operation === "max-pooling" ? Math.max(...values) : values.reduce((a, b) => a + b, 0) / values.length;
}

function startKernel() {
  choices($("operations"), OPERATIONS, "convolution", (key) => {
    lab.operation = key;
    if (key.endsWith("pooling")) setLab("stride", lab.pool);
    else if (isConvolution()) setLab("stride", 1);
    buildLab();
  });
  const add = (word, key, min, max) => {
    labSliders[key] = slider($("settings"), { word, min, max, value: lab[key] }, (value) => {
      lab[key] = value;
      showLab();
    });
  };
  add("stride", "stride", 1, 3);
  add("padding", "padding", 0, 2);
  add("dilation", "dilation", 1, 3);
  add("pool-size", "pool", 2, 3);
  redraws.push(buildLab);
}

function setLab(key, value) {
  lab[key] = value;
  labSliders[key]?.set(value);
}

const labCanvases = {};

// The pictures, the kernel or the weights, and the output; built again when the operation changes.
function buildLab() {
  if (!labSliders.pool) return;
  stopLab();
  const holder = $("lab");
  const canvas = (name, label) => {
    const made = make("canvas", { role: "application", "aria-label": label });
    explore(made, {
      columns: labSide, rows: labSide,
      place: () => lab.place,
      onPlace(x, y) {
        stopLab();
        lab.place = [x, y];
        showLab();
      },
    });
    labCanvases[name] = made;
    return made;
  };
  const output = make("figure", {}, canvas("output", t("output-label")), make("figcaption", { id: "output-caption" }));
  const play = make("button", { type: "button", id: "play" });
  play.addEventListener("click", playLab);
  output.append(make("div", { className: "row" }, play));
  if (isPointwise()) {
    const planes = ["red", "green", "blue"].map((name, c) => {
      const value = make("input", { type: "number", step: 0.1, value: lab.mix[c], "aria-label": t("weight-of", { name: t(name) }) });
      value.addEventListener("input", () => {
        lab.mix[c] = Number(value.value) || 0;
        showLab();
      });
      const plane = make("canvas", { role: "img", "aria-label": t("plane", { name: t(name) }) });
      labCanvases[`plane${c}`] = plane;
      return make("figure", {}, plane, make("figcaption", { textContent: t("plane", { name: t(name) }) }), make("label", { className: "check kernel" }, "× ", value));
    });
    const presets = presetButtons(MIXES, (weights) => (lab.mix = [...weights]));
    holder.replaceChildren(...planes.flatMap((plane, c) => (c ? [sign("+"), plane] : [plane])), sign("="), output, presets);
  } else {
    const picker = make("select", { "aria-label": t("picture") }, ...Object.keys(PICTURES).map((name) => make("option", { value: name, textContent: t(name), selected: name === lab.picture })));
    picker.addEventListener("change", () => {
      lab.picture = picker.value;
      showLab();
    });
    const input = make("figure", {}, canvas("input", t("input-label")), make("figcaption", { id: "input-caption" }), picker);
    const middle = isConvolution() ? kernelEditor() : make("div", {}, sign(t("arrow")));
    holder.replaceChildren(input, isConvolution() ? sign("×") : "", middle, isConvolution() ? sign("=") : "", output);
  }
  showLab();
}

function presetButtons(presets, apply) {
  const row = make("div", { className: "presets" });
  for (const [name, weights] of Object.entries(presets)) {
    const button = make("button", { type: "button", textContent: t(name) });
    button.addEventListener("click", () => {
      apply(weights);
      buildLab();
      const again = [...$("lab").querySelectorAll(".presets button")].find((each) => each.textContent === t(name));
      again?.focus();
    });
    row.append(button);
  }
  return row;
}

function kernelEditor() {
  const grid = make("div", { className: "kernel", role: "group", "aria-label": t("kernel-label") });
  grid.style.gridTemplateColumns = "repeat(3, auto)";
  lab.kernel.forEach((weight, i) => {
    const input = make("input", { type: "number", step: 1, value: Number(weight.toFixed(3)), "aria-label": t("kernel-cell", { row: Math.floor(i / 3) + 1, column: (i % 3) + 1 }) });
    input.addEventListener("input", () => {
      lab.kernel[i] = Number(input.value) || 0;
      showLab();
    });
    grid.append(input);
  });
  return make("figure", {}, grid, make("figcaption", { textContent: t("kernel-note") }), presetButtons(KERNELS, (weights) => (lab.kernel = [...weights])));
}

function showLab() {
  const { k, s, p, d } = labSettings();
  const side = labSide();
  lab.place = lab.place.map((at) => Math.min(at, side - 1));
  const [x, y] = lab.place;
  if (isPointwise()) {
    const tints = [[200, 30, 30], [20, 130, 40], [40, 70, 200]];
    tints.forEach((tint, c) =>
      paintCells(labCanvases[`plane${c}`], 12, 16, (i, j) => COLOURED[j][i][c], (value) => tint.map((full, n) => colours.card[n] + ((full - colours.card[n]) * value) / 9), (i, j) => i === x && j === y),
    );
  } else {
    const picture = labPicture();
    const reach = (at, place) => Number.isInteger((at - place * s) / d) && at >= place * s && at < place * s + d * (k - 1) + 1;
    paintCells(labCanvases.input, 12 + 2 * p, labCell(), (i, j) => picture[j - p]?.[i - p] ?? null, (value) => colours.card.map((paper, n) => paper + ((colours.ink[n] - paper) * value) / 14), (i, j) => reach(i, x) && reach(j, y));
    $("input-caption").textContent = t(p ? "input-padded" : "input-plain", { padding: p });
  }
  const values = Array.from({ length: side }, (_, j) => Array.from({ length: side }, (_, i) => labValue([i, j])));
  const scale = largest(values.flat());
  paintCells(labCanvases.output, side, labCell(), (i, j) => values[j][i], (value) => shade((0.8 * value) / scale), (i, j) => i === x && j === y);
  $("output-caption").textContent = t("output-caption", { side });
  $("play").textContent = t(lab.timer ? "stop" : "play");
  $("operation-note").textContent = t(`${lab.operation}-note`);
  showSum(values[y][x]);
  $("formula").replaceChildren(...formula(side));
  showSettingNotes();
  for (const key of ["padding", "dilation"]) labSliders[key].input.disabled = !isConvolution();
  labSliders.stride.input.disabled = isPointwise();
  labSliders.pool.input.disabled = isConvolution() || isPointwise();
  // A setting that has no effect shows the value that counts.
  const counts = { stride: s, padding: p, dilation: d, pool: k };
  for (const [key, each] of Object.entries(labSliders)) {
    each.set(lab[key]);
    if (each.input.disabled) each.output.textContent = counts[key];
  }
}

// Cells with numbers; a value of null is the border of zeros. `marked` cells have a frame.
function paintCells(canvas, count, cell, valueAtCell, colour, marked) {
  const ratio = 2;
  canvas.width = canvas.height = count * cell * ratio;
  canvas.style.width = `${count * cell}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.font = `${Math.round(cell * 0.42)}px system-ui, sans-serif`;
  const frames = [];
  for (let j = 0; j < count; j++)
    for (let i = 0; i < count; i++) {
      const value = valueAtCell(i, j);
      const fill = value === null ? colours.page : colour(value);
      context.fillStyle = `rgb(${fill.map(Math.round).join(",")})`;
      context.fillRect(i * cell, j * cell, cell - 1, cell - 1);
      const light = 0.3 * fill[0] + 0.59 * fill[1] + 0.11 * fill[2] > 128;
      context.fillStyle = value === null ? colours.dimText : light ? "#14171b" : "#ffffff";
      const text = say(value ?? 0, Math.abs(value ?? 0) >= 10 || Number.isInteger(value) ? 0 : 1);
      context.fillText(text, i * cell + cell / 2 - 0.5, j * cell + cell / 2, cell - 3);
      if (marked(i, j)) frames.push([i, j]);
    }
  context.strokeStyle = colours.markText;
  context.lineWidth = 3;
  const [first, last] = [frames[0], frames.at(-1)];
  const whole = (last[0] - first[0] + 1) * (last[1] - first[1] + 1) === frames.length;
  // One frame around a window without gaps.
  if (whole) context.strokeRect(first[0] * cell + 0.5, first[1] * cell + 0.5, (last[0] - first[0] + 1) * cell - 2, (last[1] - first[1] + 1) * cell - 2);
  else for (const [i, j] of frames) context.strokeRect(i * cell + 0.5, j * cell + 0.5, cell - 2, cell - 2);
}

// The calculation of the marked output, with all numbers.
function showSum(value) {
  const place = lab.place;
  const signed = (number) => (number < 0 ? `(${say(number)})` : say(number));
  let text;
  if (isPointwise()) text = COLOURED[place[1]][place[0]].map((each, c) => `${each} × ${signed(lab.mix[c])}`).join(" + ");
  else {
    const values = labWindow(place);
    if (isConvolution()) text = values.map((each, i) => `${each}×${signed(lab.kernel[i])}`).join(" + ");
    else if (lab.operation === "max-pooling") text = t("max-of", { values: values.join(", ") });
    else text = `(${values.join(" + ")}) / ${values.length}`;
  }
  $("sum").textContent = `${t("place-short", { row: place[1] + 1, column: place[0] + 1 })}: ${text} = ${say(value)}`;
}

function formula(side) {
  const { k, s, p, d } = labSettings();
  const bold = (value) => make("b", { textContent: value });
  // Each on a line of its own.
  const parts = [[t("formula"), " = ⌊(n + 2·p − d·(k − 1) − 1) / s⌋ + 1"], ["= ⌊(12 + 2·", bold(p), " − ", bold(d), "·(", bold(k), " − 1) − 1) / ", bold(s), "⌋ + 1"], ["= ", bold(side)]];
  return parts.flatMap((pieces) => [make("span", { className: "part" }, ...pieces), " "]);
}

function showSettingNotes() {
  const { s, p, d } = labSettings();
  const used = { stride: s > 1, padding: p > 0, dilation: d > 1 };
  const notes = Object.entries(used).map(([key, isUsed]) => make("p", { className: `setting${isUsed ? " used" : ""}`, textContent: t(`${key}-note`) }));
  $("setting-notes").replaceChildren(...notes);
}

// Moves the window over the picture, one place after the other.
function playLab() {
  if (lab.timer) return stopLab();
  lab.place = [0, 0];
  lab.timer = setInterval(() => {
    const side = labSide();
    const next = lab.place[1] * side + lab.place[0] + 1;
    if (next >= side * side || $("kernel").hidden) return stopLab();
    lab.place = [next % side, Math.floor(next / side)];
    showLab();
  }, 180);
  showLab();
}

function stopLab() {
  if (!lab.timer) return;
  clearInterval(lab.timer);
  lab.timer = null;
  $("play").textContent = t("play");
}
