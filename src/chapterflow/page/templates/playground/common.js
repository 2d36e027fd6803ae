// What all tabs share: data, words, theme, and pieces of the page.

const DATA = JSON.parse(document.getElementById("data").textContent);
const state = { language: "en", theme: "light" };
const $ = (id) => document.getElementById(id);

// The word of a key in the language of the page, with `{name}` replaced by values.
function t(key, values = {}) {
  const word = DATA.words[key]?.[state.language];
  if (word === undefined) throw new Error(`words.json has no "${key}"`);
  return word.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

// Functions that write again what depends on language or theme.
const redraws = [];

function translate() {
  document.documentElement.lang = state.language;
  document.title = t("title");
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = t(element.dataset.word);
  for (const element of document.querySelectorAll("[data-label]"))
    element.setAttribute("aria-label", t(element.dataset.label));
  for (const button of document.querySelectorAll("[data-language]"))
    button.setAttribute("aria-pressed", String(button.dataset.language === state.language));
  $("theme").textContent = t(state.theme === "dark" ? "light" : "dark");
  for (const redraw of redraws) redraw();
}

function setTheme(theme) {
  state.theme = theme;
  document.documentElement.dataset.theme = theme;
  readColours();
}

// Colours of pictures as [red, green, blue]: zero, positive and negative values.
const colours = {};
function readColours() {
  const style = getComputedStyle(document.documentElement);
  const rgb = (name) => {
    const hex = style.getPropertyValue(name).trim().slice(1);
    const wide = hex.length === 3 ? [...hex].map((digit) => digit + digit).join("") : hex;
    return [0, 2, 4].map((i) => parseInt(wide.slice(i, i + 2), 16));
  };
  for (const name of ["card", "ink", "dim", "line", "plus", "minus", "mark", "page"]) {
    colours[name] = rgb(`--${name}`);
    colours[`${name}Text`] = `rgb(${colours[name].join(",")})`;
  }
}

// The colour of a value from -1 to 1: paper at zero, towards orange above and blue below.
function shade(value) {
  const strength = Math.min(Math.abs(value), 1);
  const full = value < 0 ? colours.minus : colours.plus;
  return colours.card.map((paper, i) => Math.round(paper + (full[i] - paper) * strength));
}

const shadeText = (value) => `rgb(${shade(value).join(",")})`;

// An element with properties, attributes (keys with "-" or "role") and children.
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role" || key === "for") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// A number for a person: few digits, a true minus sign.
function say(value, digits = 2) {
  const rounded = Number(value.toFixed(digits));
  const text = Number.isInteger(value) || digits === 0 ? String(rounded) : rounded.toFixed(digits);
  return (rounded === 0 ? text.replace("-", "") : text).replace("-", "−");
}

const percent = (share) => `${(100 * share).toFixed(share > 0.0995 ? 0 : 1)} %`;

// A labelled slider. `onInput` is called with its value.
function slider(holder, { word, min, max, step = 1, value, unit = "" }, onInput) {
  const input = make("input", { type: "range", min, max, step });
  input.value = value;
  const output = make("output", {});
  const show = () => (output.textContent = say(Number(input.value), step < 1 ? 2 : 0) + unit);
  input.addEventListener("input", () => {
    show();
    onInput(Number(input.value));
  });
  show();
  holder.append(make("label", {}, make("span", { "data-word": word }), input, output));
  return {
    input,
    output,
    set(next) {
      input.value = next;
      show();
    },
  };
}

// Buttons of which one is chosen; arrow keys move the choice.
function choices(holder, keys, chosen, onChoose) {
  const buttons = keys.map((key) => make("button", { type: "button", role: "radio", "data-word": key }));
  const choose = (place, focus) => {
    buttons.forEach((button, i) => {
      button.setAttribute("aria-checked", String(i === place));
      button.tabIndex = i === place ? 0 : -1;
    });
    if (focus) buttons[place].focus();
    onChoose(keys[place]);
  };
  buttons.forEach((button, place) => {
    button.addEventListener("click", () => choose(place));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      choose((place + step + keys.length) % keys.length, true);
    });
  });
  holder.append(...buttons);
  choose(keys.indexOf(chosen));
}

// Values [height, width, channels] of one channel as a picture, one canvas pixel for each value.
function drawMap(context, values, channel, scale, left = 0, top = 0) {
  const [height, width, channels] = values.shape;
  const image = context.createImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    const [r, g, b] = shade(values.data[i * channels + channel] / scale);
    image.data.set([r, g, b, 255], 4 * i);
  }
  context.putImageData(image, left, top);
}

const largest = (data) => data.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-9);

// A small grid of numbers, each on the colour of its value.
function cells(values, columns, { scale = largest(values), outside = [], best = -1, digits = 2 } = {}) {
  const grid = make("div", { className: "cells" });
  grid.style.gridTemplateColumns = `repeat(${columns}, auto)`;
  values.forEach((value, i) => {
    const cell = make("span", { textContent: say(value, digits) });
    // A pale background keeps the numbers readable.
    cell.style.background = shadeText((0.45 * value) / scale);
    if (outside[i]) cell.className = "outside";
    if (i === best) cell.classList.add("best");
    grid.append(cell);
  });
  return grid;
}

// Let a canvas of cells be explored by pointer and by arrow keys: `onPlace(column, row)`.
function explore(canvas, { columns, rows, place, onPlace }) {
  canvas.tabIndex = 0;
  const clamp = (value, count) => Math.min(Math.max(value, 0), count() - 1);
  const go = (column, row) => onPlace(clamp(column, columns), clamp(row, rows));
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * columns());
    go(column, Math.floor(((event.clientY - box.top) / box.height) * rows()));
  };
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const [column, row] = place();
    go(column + step[0], row + step[1]);
  });
}
