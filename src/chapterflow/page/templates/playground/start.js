// Tabs, language, theme; then everything is shown.

function showTab(name) {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const chosen = tab.getAttribute("aria-controls") === name;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !chosen;
  }
}

function startTabs() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => {
      showTab(tab.getAttribute("aria-controls"));
      history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
    });
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const other = tabs[(place + step + tabs.length) % tabs.length];
      other.click();
      other.focus();
    });
  });
  const wanted = location.hash.slice(1);
  showTab(tabs.some((tab) => tab.getAttribute("aria-controls") === wanted) ? wanted : "draw");
}

async function start() {
  state.language = navigator.language.startsWith("ko") ? "ko" : DATA.language;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  setTheme(dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => {
    setTheme(dark.matches ? "dark" : "light");
    translate();
  });
  for (const button of document.querySelectorAll("[data-language]"))
    button.addEventListener("click", () => {
      state.language = button.dataset.language;
      translate();
    });
  $("theme").addEventListener("click", () => {
    setTheme(state.theme === "dark" ? "light" : "dark");
    translate();
  });
  for (const document of DATA.models) models.push({ document, network: await readNetwork(document) });
  startDrawing();
  makeColumns();
  startKernel();
  await startGraph();
  redraws.push(showExamples, showLeftOut, answer, () => showCount.last && showCount(...showCount.last));
  startTabs();
  // An image that the models disagree on says most at once.
  if (EXAMPLES) drawing.example = DATA.examples.chosen[0][1];
  translate();
  inspectFirst();
  document.documentElement.dataset.ready = "true";
}

start();
