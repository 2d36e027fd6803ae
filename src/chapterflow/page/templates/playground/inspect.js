// One value of one layer, large: its map, the window that it came from, and the calculation.

const picked = { column: null, layer: null, channel: 0, place: [0, 0], input: null };

const pickedChannel = (column, layer) => (picked.column === column && picked.layer === layer ? picked.channel : 0);

function inspect(column, layer, channel, place) {
  const shape = column.outputs.get(layer.name).shape;
  const other = picked.layer !== layer || picked.column !== column;
  if (other || picked.channel !== channel) picked.input = null;
  Object.assign(picked, { column, layer, channel });
  if (place) picked.place = place;
  else if (other) picked.place = [Math.floor((shape[1] ?? 1) / 2), Math.floor((shape[0] ?? 1) / 2)];
  const entry = column.maps.find((each) => each.layer === layer);
  showMaps(column, entry);
  showInspector();
}

// At first: where the first map of the last model is strongest.
function inspectFirst() {
  const column = columns.at(-1);
  const entry = column.maps.find(({ layer }) => /Conv2D$/.test(layer.type)) ?? column.maps[0];
  const { data, shape } = column.outputs.get(entry.layer.name);
  const most = data.indexOf(data.reduce((a, b) => Math.max(a, b)));
  const position = Math.floor(most / shape.at(-1));
  inspect(column, entry.layer, most % shape.at(-1), [position % (shape[1] ?? 1), Math.floor(position / (shape[1] ?? 1))]);
}

// On narrow screens the inspector covers the lower part, so it opens only on request.
const openInspector = () => $("inspector").classList.add("open");

function showInspector() {
  const holder = $("inspector");
  const { column, layer, channel } = picked;
  const known = column && column.outputs.has(layer.name) && models[column.model].network.byName.get(layer.name) === layer;
  if (!known) {
    holder.replaceChildren(make("h2", { textContent: t("inspector") }), make("p", { textContent: t("inspector-help") }), legend());
    return;
  }
  const output = column.outputs.get(layer.name);
  const { shape } = output;
  const vector = shape.length === 1;
  const close = make("button", { type: "button", className: "close", textContent: t("close") });
  close.addEventListener("click", () => {
    holder.classList.remove("open");
    column.maps.find((each) => each.layer === layer).canvas.focus();
  });
  const title = t(vector ? "unit-title" : "map-title", { model: models[column.model].document.name, layer: layer.name, number: channel + 1, count: shape.at(-1) });
  const parts = [make("header", {}, make("h2", { textContent: title }), close)];
  if (!vector) {
    picked.place = picked.place.map((at, i) => Math.min(at, shape[1 - i] - 1));
    // The canvas stays the same element, so that it keeps the focus of the keyboard.
    bigMap.canvas.setAttribute("aria-label", t("big-map"));
    drawBig(output, channel);
    parts.push(bigMap.canvas);
    const [x, y] = picked.place;
    parts.push(make("p", { className: "note", textContent: t("place", { row: y + 1, column: x + 1, value: say(valueAt(output, x, y, channel), 3) }) }));
  }
  parts.push(...calculation(column, layer, output), legend());
  const had = document.activeElement;
  holder.replaceChildren(...parts);
  if (had?.id && holder.querySelector(`#${had.id}`)) holder.querySelector(`#${had.id}`).focus();
}

const valueAt = (map, x, y, channel) => map.data[(y * map.shape[1] + x) * map.shape[2] + channel];

const legend = () => {
  const block = (value) => {
    const mark = make("span", { textContent: "■ " });
    mark.style.color = shadeText(value);
    return mark;
  };
  return make("p", { className: "note" }, block(1), t("legend-plus"), " ", block(-1), t("legend-minus"));
};

const bigMap = { canvas: make("canvas", { id: "big-map", className: "big", role: "application" }) };
explore(bigMap.canvas, {
  columns: () => picked.column.outputs.get(picked.layer.name).shape[1],
  rows: () => picked.column.outputs.get(picked.layer.name).shape[0],
  place: () => picked.place,
  onPlace(x, y) {
    picked.place = [x, y];
    showInspector();
  },
});

function drawBig(output, channel) {
  const [height, width] = output.shape;
  const { canvas } = bigMap;
  const cell = Math.max(1, Math.floor(208 / Math.max(height, width)));
  canvas.width = width * cell;
  canvas.height = height * cell;
  const context = canvas.getContext("2d");
  const scale = largest(output.data);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      context.fillStyle = shadeText(valueAt(output, x, y, channel) / scale);
      context.fillRect(x * cell, y * cell, cell, cell);
    }
  const [x, y] = picked.place;
  context.strokeStyle = colours.markText;
  context.lineWidth = 3;
  context.strokeRect(x * cell + 1.5, y * cell + 1.5, cell - 3, cell - 3);
}

// The numbers of one window of a map; outside of the map they are 0.
function windowOf(layer, x, [column, row], channel) {
  const windowed = plan(layer, x.shape);
  const [height, width] = x.shape;
  const values = [];
  const outside = [];
  for (let ky = 0; ky < windowed.kernel[0]; ky++)
    for (let kx = 0; kx < windowed.kernel[1]; kx++) {
      const iy = row * windowed.stride[0] + ky * windowed.dilation[0] - windowed.margin[0];
      const ix = column * windowed.stride[1] + kx * windowed.dilation[1] - windowed.margin[1];
      const off = iy < 0 || ix < 0 || iy >= height || ix >= width;
      outside.push(off);
      values.push(off ? 0 : valueAt(x, ix, iy, channel));
    }
  return { values, outside, columns: windowed.kernel[1] };
}

const figure = (content, caption) => make("figure", {}, content, make("figcaption", { textContent: caption }));
const sign = (text) => make("span", { className: "sign", textContent: text });
const sentence = (text) => make("p", { textContent: text });

// How the picked value is computed, as elements.
function calculation(column, layer, output) {
  const inputs = layer.inputs.map((name) => column.outputs.get(name));
  const { channel } = picked;
  const explain = {
    Conv2D: convolution, MaxPooling2D: pooling, AveragePooling2D: pooling, Dense: dense,
    BatchNormalization: normalisation, ReLU: rectifier, Concatenate: joined,
  }[layer.type];
  if (explain) return explain(layer, inputs, output, channel, column);
  const key = `does-${layer.type}`;
  return DATA.words[key] ? [sentence(t(key))] : [];
}

function activationText(layer, sum, value) {
  const name = layer.settings.activation;
  return name && name !== "linear" ? ` ${t("activation", { name: name === "relu" ? "ReLU" : name, sum: say(sum), value: say(value) })}` : "";
}

function convolution(layer, [x], output, channel) {
  const [kernel, bias] = layer.weights;
  const [kh, kw, channels, filters] = kernel.shape;
  const weights = (c) => Array.from({ length: kh * kw }, (_, k) => kernel.data[(k * channels + c) * filters + channel]);
  const parts = Array.from({ length: channels }, (_, c) => {
    const { values } = windowOf(layer, x, picked.place, c);
    return weights(c).reduce((sum, weight, k) => sum + weight * values[k], 0);
  });
  // The input map that contributes most, unless another one is chosen.
  const strongest = parts.reduce((best, part, c) => (Math.abs(part) > Math.abs(parts[best]) ? c : best), 0);
  const c = picked.input ?? strongest;
  const { values, outside, columns } = windowOf(layer, x, picked.place, c);
  const digits = kw > 3 ? 1 : 2;
  const scale = largest(kernel.data);
  const elements = [];
  if (channels > 1) {
    const options = parts.map((part, i) => make("option", { value: i, textContent: t("input-option", { number: i + 1, part: say(part) }), selected: i === c }));
    const select = make("select", { id: "input-map" }, ...options);
    select.addEventListener("change", () => {
      picked.input = Number(select.value);
      showInspector();
    });
    elements.push(make("label", { className: "note" }, `${t("input-map")} `, select));
  }
  elements.push(
    make(
      "div",
      { className: "sum" },
      figure(cells(values, columns, { outside, digits, scale: largest(x.data) }), t("window", { height: kh, width: kw })),
      sign("×"),
      figure(cells(weights(c), columns, { digits, scale }), t("kernel-caption")),
      sign("="),
      figure(sign(say(parts[c])), channels > 1 ? t("part") : t("sum")),
    ),
  );
  const offset = bias ? bias.data[channel] : 0;
  const total = parts.reduce((a, b) => a + b, 0) + offset;
  const value = valueAt(output, ...picked.place, channel);
  const key = channels > 1 ? "conv-sum-many" : "conv-sum-one";
  elements.push(sentence(t(key, { count: channels, sum: say(total - offset), bias: say(offset), total: say(total) }) + activationText(layer, total, value)));
  if (outside.some(Boolean)) elements.push(make("p", { className: "note", textContent: t("outside") }));
  elements.push(make("p", { className: "note", textContent: t("does-Conv2D") }));
  return elements;
}

function pooling(layer, [x], output, channel) {
  const { values, outside, columns } = windowOf(layer, x, picked.place, channel);
  const isMax = layer.type === "MaxPooling2D";
  const inside = values.map((value, i) => (outside[i] ? -Infinity : value));
  const best = isMax ? inside.indexOf(Math.max(...inside)) : -1;
  const value = valueAt(output, ...picked.place, channel);
  return [
    make("div", { className: "sum" }, figure(cells(values, columns, { outside, best, scale: largest(x.data) }), t("window", { height: values.length / columns, width: columns })), sign("→"), figure(sign(say(value)), t(isMax ? "maximum" : "mean"))),
    make("p", { className: "note", textContent: t(isMax ? "does-MaxPooling2D" : "does-AveragePooling2D") }),
  ];
}

function dense(layer, [x], output, channel, column) {
  const [kernel, bias] = layer.weights;
  const [inputs, units] = kernel.shape;
  const weights = Array.from({ length: inputs }, (_, i) => kernel.data[i * units + channel]);
  const products = weights.map((weight, i) => weight * x.data[i]);
  const offset = bias ? bias.data[channel] : 0;
  const total = products.reduce((a, b) => a + b, 0) + offset;
  const elements = [];
  const maps = mapsBefore(column, layer);
  if (maps) {
    // One weight for each pixel: the unit's weights are a picture, too.
    const picture = (values) => {
      const [height, width, channels] = maps;
      const mean = new Float32Array(height * width);
      values.forEach((value, i) => (mean[Math.floor(i / channels)] += value));
      const canvas = make("canvas", { width, height, className: "big" });
      canvas.style.width = "5.2rem";
      drawMap(canvas.getContext("2d"), tensor([height, width, 1], mean), 0, largest(mean));
      return canvas;
    };
    elements.push(make("div", { className: "sum" }, figure(picture(Array.from(x.data)), t("dense-input")), sign("×"), figure(picture(weights), t("dense-weights")), sign("="), figure(picture(products), t("dense-products"))));
  } else {
    const order = products.map((_, i) => i).sort((a, b) => Math.abs(products[b]) - Math.abs(products[a]));
    const table = make("table", {}, make("caption", { textContent: t("dense-largest") }));
    const body = table.createTBody();
    for (const i of order.slice(0, 5)) body.insertRow().append(make("th", { scope: "row", textContent: t("dense-row", { number: i + 1 }) }), make("td", { textContent: `${say(x.data[i])} × ${say(weights[i])} = ${say(products[i])}` }));
    elements.push(table);
  }
  elements.push(sentence(t("dense-sum", { count: inputs, sum: say(total - offset), bias: say(offset), total: say(total) }) + activationText(layer, total, output.data[channel])));
  if (layer.name === models[column.model].network.output) elements.push(sentence(t("logit", { name: models[column.model].document.classes[channel], share: percent(softmax(output.data)[channel]) })));
  elements.push(make("p", { className: "note", textContent: t("does-Dense") }));
  return elements;
}

// The shape of the maps that a dense layer reads as one row of numbers, or null.
function mapsBefore(column, layer) {
  const { byName } = models[column.model].network;
  let before = byName.get(layer.inputs[0]);
  while (before.type === "Identity" || before.type === "Flatten") {
    const { shape } = column.outputs.get(before.inputs[0]);
    if (before.type === "Flatten") return shape.length === 3 && shape[0] * shape[1] > 1 ? shape : null;
    before = byName.get(before.inputs[0]);
  }
  return null;
}

function normalisation(layer, [x], output, channel) {
  const [factor, summand] = layer.weights.map((weight) => weight.data[channel]);
  const before = valueAt(x, ...picked.place, channel);
  return [sentence(t("normalisation", { before: say(before), factor: say(factor), summand: say(summand), value: say(valueAt(output, ...picked.place, channel)) }))];
}

function rectifier(layer, [x], output, channel) {
  const at = (map) => (map.shape.length === 1 ? map.data[channel] : valueAt(map, ...picked.place, channel));
  return [sentence(t("rectifier", { before: say(at(x)), value: say(at(output)) }))];
}

function joined(layer, inputs, output, channel) {
  let [part, rest] = [0, channel];
  while (rest >= inputs[part].shape.at(-1)) rest -= inputs[part++].shape.at(-1);
  return [sentence(t("joined", { layer: layer.inputs[part], number: rest + 1 }))];
}
