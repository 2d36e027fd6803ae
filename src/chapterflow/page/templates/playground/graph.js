// The third tab: features spread over a graph, one hop a layer; and a model's answers when edges
// change.

const GRAPH = DATA.graph;
const NODES = GRAPH.labels.length;
const EDGE_KEY = (a, b) => `${Math.min(a, b)}-${Math.max(a, b)}`;
const ORIGINAL = new Set(GRAPH.edges.map(([a, b]) => EDGE_KEY(a, b)));
const club = {
  edges: new Set(ORIGINAL), mode: "spread", node: 0, hops: 1, partner: null, row: 0,
  network: null, before: null, after: null, status: null,
};
const pairs = () => [...club.edges].flatMap((key) => {
  const [a, b] = key.split("-").map(Number);
  return [[a, b], [b, a]];
});
const neighbours = (node) => pairs().filter(([a]) => a === node).map(([, b]) => b).sort((a, b) => a - b);

// One feature per node: 1 at the chosen node, then Â times itself, hop by hop.
function hops() {
  const start = tensor([NODES, 1]);
  start.data[club.node] = 1;
  const all = [start];
  for (let hop = 0; hop < club.hops; hop++) all.push(spread(pairs(), all.at(-1)));
  return all;
}

// Probabilities of each node, [nodes][classes].
function nodeAnswers() {
  if (!club.network) return null;
  const features = tensor([NODES, NODES]);
  for (let i = 0; i < NODES; i++) features.data[i * NODES + i] = 1;
  const logits = forward(club.network, { features, edges: pairs() }).get(club.network.output);
  const classes = logits.shape[1];
  return Array.from({ length: NODES }, (_, i) => softmax(logits.data.subarray(i * classes, (i + 1) * classes)));
}

const best = (shares) => shares.indexOf(Math.max(...shares));

async function startGraph() {
  club.network = GRAPH.model ? await readNetwork(GRAPH.model) : null;
  club.before = club.after = nodeAnswers();
  // Start where little is reached at once.
  const reach = (node) => new Set(neighbours(node).flatMap(neighbours)).size;
  club.node = club.row = GRAPH.labels.map((_, node) => node).sort((a, b) => reach(a) - reach(b))[0];
  choices($("graph-modes"), ["spread", "edit"], "spread", (key) => {
    club.mode = key;
    club.partner = null;
    club.status = null;
    if (document.documentElement.lang) showGraph();
  });
  redraws.push(showGraph);
}

function changeEdge(a, b) {
  const key = EDGE_KEY(a, b);
  const added = !club.edges.delete(key);
  if (added) club.edges.add(key);
  club.after = nodeAnswers();
  const changed = changedNodes().length;
  club.status = [added ? "edge-added" : "edge-cut", { a, b }, club.network ? changed : null];
  showGraph();
}

const changedNodes = () => (club.network ? GRAPH.labels.map((_, i) => i).filter((i) => best(club.before[i]) !== best(club.after[i])) : []);

function pickNode(node) {
  if (club.mode === "spread") {
    club.node = club.row = node;
  } else if (club.partner === null) {
    club.partner = club.node = node;
    club.status = ["second-node", { a: node }, null];
  } else if (club.partner === node) {
    club.partner = club.status = null;
  } else {
    const partner = club.partner;
    club.partner = null;
    club.node = node;
    changeEdge(partner, node);
    return;
  }
  showGraph();
}

const svg = (tag, attributes = {}, ...children) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};
const spot = (node) => [5 + 90 * GRAPH.places[node][0], 5 + 72 * GRAPH.places[node][1]];

function showGraph() {
  const focused = document.activeElement?.dataset?.node;
  const drawingOf = svg("svg", { viewBox: "0 0 100 82", role: "group", "aria-label": t("graph-label", { title: GRAPH.title }) });
  const values = hops().at(-1).data;
  const spreading = club.mode === "spread";
  const scale = largest(values);
  for (const key of new Set([...ORIGINAL, ...club.edges])) {
    const [a, b] = key.split("-").map(Number);
    const [[x1, y1], [x2, y2]] = [spot(a), spot(b)];
    const kind = !club.edges.has(key) ? "cut" : ORIGINAL.has(key) ? "" : "new";
    drawingOf.append(svg("line", { x1, y1, x2, y2, class: `edge ${kind}`, "data-ends": key }));
  }
  const changed = new Set(changedNodes());
  for (let node = 0; node < NODES; node++) {
    const [x, y] = spot(node);
    const shares = club.after?.[node];
    const answer = shares ? best(shares) : GRAPH.labels[node];
    const fill = spreading ? shadeText((0.75 * values[node]) / scale) : shadeText((answer ? 1 : -1) * (shares ? 0.15 + 1.1 * (shares[answer] - 0.5) : 0.6));
    const square = !spreading && answer === 1;
    const shape = square
      ? svg("rect", { x: x - 2.1, y: y - 2.1, width: 4.2, height: 4.2, class: "shape", fill })
      : svg("circle", { cx: x, cy: y, r: 2.3, class: "shape", fill });
    const text = svg("text", { x, y: y + 0.1 });
    text.textContent = node;
    const words = spreading ? say(values[node], 3) : `${GRAPH.classes[answer]}${shares ? `, ${percent(shares[answer])}` : ""}`;
    const picked = club.mode === "edit" ? club.partner === node : club.node === node;
    const marks = [picked && "picked", !spreading && GRAPH.trained.includes(node) && "trained", !spreading && changed.has(node) && "changed"].filter(Boolean).join(" ");
    const group = svg("g", { class: `node ${marks}`, role: "button", tabindex: node === club.row ? 0 : -1, "aria-pressed": String(picked), "aria-label": t("node-label", { node, words }), "data-node": node }, svg("circle", { cx: x, cy: y, r: 3.4, class: "halo" }), shape, text);
    group.addEventListener("click", () => pickNode(node));
    group.addEventListener("pointerenter", () => {
      if (spreading && club.row !== node) showRow(node);
    });
    group.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (event.key === "Enter" || event.key === " ") pickNode(node);
      else if (way) focusNode(next(node, way));
      else return;
      event.preventDefault();
    });
    drawingOf.append(group);
  }
  $("club").replaceChildren(drawingOf);
  if (spreading) markEdges();
  if (focused !== undefined) $("club").querySelector(`[data-node="${focused}"]`).focus();
  $("graph-note").textContent = t(spreading ? "spread-note" : "edit-note");
  $("graph-status").textContent = club.status ? statusText() : "";
  $("graph-side").replaceChildren(...(spreading ? spreadSide() : editSide()));
}

// Edges over which the chosen row of Â reads.
function markEdges() {
  for (const line of $("club").querySelectorAll(".edge"))
    line.classList.toggle("on", club.hops > 0 && line.dataset.ends.split("-").includes(String(club.row)));
}

function statusText() {
  const [key, values, changed] = club.status;
  const text = t(key, values);
  return changed === null ? text : `${text} ${t("changed", { count: changed })}`;
}

// The node in the direction of an arrow key that is nearest, or the same one.
function next(node, [dx, dy]) {
  const [x, y] = spot(node);
  let [nearest, least] = [node, Infinity];
  for (let other = 0; other < NODES; other++) {
    const [u, v] = spot(other);
    const along = (u - x) * dx + (v - y) * dy;
    const across = Math.abs((u - x) * dy) + Math.abs((v - y) * dx);
    if (other !== node && along > 0 && along + 2 * across < least) [nearest, least] = [other, along + 2 * across];
  }
  return nearest;
}

function focusNode(node) {
  club.row = node;
  showGraph();
  $("club").querySelector(`[data-node="${node}"]`).focus();
}

function showRow(node) {
  club.row = node;
  markEdges();
  $("graph-side").replaceChildren(...spreadSide());
}

function matrixPicture(columns, value, { caption, label }) {
  const cell = 4;
  const wide = columns === 1 ? 3 * cell : cell;
  const canvas = make("canvas", { width: columns * wide, height: NODES * cell, role: "img", "aria-label": label });
  const context = canvas.getContext("2d");
  context.fillStyle = colours.cardText;
  context.fillRect(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < NODES; i++)
    for (let j = 0; j < columns; j++) {
      const shown = value(i, j);
      if (!shown) continue;
      context.fillStyle = shadeText(shown);
      context.fillRect(j * wide, i * cell, wide, cell);
    }
  context.strokeStyle = colours.markText;
  context.strokeRect(0.5, club.row * cell + 0.5, canvas.width - 1, cell);
  return figure(canvas, caption);
}

function spreadSide() {
  const all = hops();
  const edges = pairs();
  const joined = new Set(edges.map(([a, b]) => a * NODES + b));
  const [out, into] = inverseRoots(edges, NODES);
  const weight = (i, j) => (i === j || joined.has(i * NODES + j) ? out[i] * into[j] : 0);
  const column = (values) => {
    const scale = largest(values.data);
    return (i) => values.data[i] / scale;
  };
  const holder = make("div", { className: "sliders" });
  const control = slider(holder, { word: "layers", min: 0, max: 3, value: club.hops }, (value) => {
    club.hops = value;
    showGraph();
    $("graph-side").querySelector("input").focus();
  });
  control.input.id = "hops";
  holder.querySelector("span").textContent = t("layers");
  const last = all.length - 1;
  const name = (k) => (k ? `H${"₀₁₂₃"[k]}` : "X");
  const parts = [
    matrixPicture(NODES, (i, j) => (joined.has(i * NODES + j) ? 0.8 : 0), { caption: t("matrix-a"), label: t("matrix-a") }),
    matrixPicture(NODES, weight, { caption: t("matrix-ahat"), label: t("matrix-ahat") }),
  ];
  if (last) {
    parts.push(sign("×"), matrixPicture(1, column(all[last - 1]), { caption: name(last - 1), label: name(last - 1) }), sign("="));
  }
  parts.push(matrixPicture(1, column(all[last]), { caption: name(last), label: name(last) }));
  const row = club.row;
  const value = all[last].data[row];
  let text = t("row-start", { node: row, value: say(value) });
  if (last) {
    const terms = [row, ...neighbours(row)].filter((other) => all[last - 1].data[other]).map((other) => `${say(weight(row, other))} × ${say(all[last - 1].data[other])} (${other})`);
    text = t("row", { node: row, from: name(last - 1), terms: terms.join(" + ") || "0", value: say(value, 3) });
  }
  const reached = all[last].data.reduce((count, each) => count + (each > 0), 0);
  return [
    holder,
    make("p", { className: "explain", textContent: t("reached", { node: club.node, layers: last, count: reached, of: NODES }) }),
    make("div", { className: "matrices" }, ...parts),
    make("p", { className: "equation", textContent: text }),
    make("p", { className: "note", textContent: t("gcn-layer") }),
  ];
}

function editSide() {
  if (!club.network) return [make("p", { textContent: t(`model-${GRAPH.modelMissing}`) }), resetEdges()];
  const node = club.node;
  const bars = make("ol", { className: "bars" });
  club.after[node].forEach((share, i) => {
    const bar = make("i");
    bar.style.width = `${100 * share}%`;
    bars.append(make("li", { className: i === best(club.after[node]) ? "best" : "" }, make("span", { textContent: GRAPH.classes[i] }), bar, make("span", { textContent: percent(share) })));
  });
  const changed = changedNodes();
  const right = GRAPH.labels.filter((label, i) => best(club.after[i]) === label).length;
  const rows = changed.map((i) => make("li", { textContent: t("answer-changed", { node: i, before: GRAPH.classes[best(club.before[i])], after: GRAPH.classes[best(club.after[i])], share: percent(Math.max(...club.after[i])) }) }));
  return [
    make("h2", { textContent: t("node-answer", { node }) }),
    bars,
    make("p", { textContent: t("node-truth", { name: GRAPH.classes[GRAPH.labels[node]], before: percent(club.before[node][best(club.after[node])]), answer: GRAPH.classes[best(club.after[node])] }) }),
    make("p", { textContent: t("nodes-right", { right, of: NODES }) }),
    ...(rows.length ? [make("h2", { textContent: t("answers-changed") }), make("ul", {}, ...rows)] : []),
    resetEdges(),
    make("p", { className: "note", textContent: t("graph-legend", { circle: GRAPH.classes[0], square: GRAPH.classes[1] ?? "" }) }),
  ];
}

function resetEdges() {
  const button = make("button", { type: "button", textContent: t("reset-edges") });
  button.addEventListener("click", () => {
    club.edges = new Set(ORIGINAL);
    club.after = club.before;
    club.partner = club.status = null;
    showGraph();
  });
  return button;
}
