// What the pages of the book do themselves: wide content can be scrolled by keyboard, and paper is white.

// Equations, tables and outputs wider than the page scroll inside themselves. While one does, it can be reached by the
// keyboard and has a name; while it fits, it stays out of the tab order. An equation only a little too wide is set smaller.
(() => {
  const SMALLEST = 0.75;
  const BOXES = "div.math, .pst-scrollable-table-container, .cell_output > .output, .bd-article pre";

  function nameOf(box) {
    const number = box.closest(".numbered-equation")?.querySelector(".equation-number")?.textContent;
    if (box.matches(".math")) return number ? `Equation ${number}` : "Equation";
    if (box.matches("pre")) return box.closest(".cell_output") ? "Output" : "Code";
    return box.querySelector("table") ? "Table" : "Output";
  }

  function fit(equation) {
    equation.style.fontSize = "";
    const room = equation.clientWidth / equation.scrollWidth;
    if (room < 1 && room >= SMALLEST) equation.style.fontSize = `${Math.floor(99 * room)}%`;
  }

  function update() {
    document.querySelectorAll("div.math").forEach(fit);
    const names = new Map();
    for (const box of document.querySelectorAll(BOXES)) {
      if (box.scrollWidth > box.clientWidth + 1) {
        const name = nameOf(box);
        names.set(name, (names.get(name) ?? 0) + 1);
        const which = name.startsWith("Equation (") ? name : `${name} ${names.get(name)}`;  // two regions of one name confuse
        box.tabIndex = 0;
        box.setAttribute("role", "region");
        box.setAttribute("aria-label", `${which}, scrolls sideways`);
      } else if (box.getAttribute("role") === "region") {
        for (const attribute of ["tabindex", "role", "aria-label"]) box.removeAttribute(attribute);
      }
    }
  }

  let waiting;
  const soon = () => { clearTimeout(waiting); waiting = setTimeout(update, 350); };  // after the theme, which waits 300 ms
  addEventListener("resize", soon);
  addEventListener("load", soon);
  document.addEventListener("toggle", soon, true);  // a fold was opened
  document.fonts?.ready.then(soon);
  (window.MathJax?.startup?.promise ?? Promise.resolve()).then(soon);
})();

// What belongs together stays on a line: a formula and the comma or full stop after it, a number and its "%" or "×".
(() => {
  for (const formula of document.querySelectorAll(".bd-article span.math")) {
    const after = formula.nextSibling;
    const signs = after?.nodeType === Node.TEXT_NODE && after.data.match(/^[.,;:!?)]+/);
    if (!signs) continue;
    after.splitText(signs[0].length);
    const together = document.createElement("span");
    together.className = "unbroken";
    formula.replaceWith(together);
    together.append(formula, after);
  }
  const words = document.createTreeWalker(document.querySelector(".bd-article") ?? document.head, NodeFilter.SHOW_TEXT);
  while (words.nextNode()) {
    const { data, parentElement } = words.currentNode;
    if (/\d [%×]/.test(data) && !parentElement.closest("pre, code, script, svg"))
      words.currentNode.data = data.replace(/(\d) ([%×])(?: (?=\d))?/g, (all, digit, sign) =>
        `${digit}\u00a0${sign}${all.endsWith(" ") ? "\u00a0" : ""}`);
  }
})();

// Printed from dark mode, too, a page is dark on white.
(() => {
  const page = document.documentElement;
  let before = null;

  function onPaper(printing) {
    if (printing && before === null) {
      before = page.dataset.theme;
      page.dataset.theme = "light";
    } else if (!printing && before !== null) {
      page.dataset.theme = before;
      before = null;
    }
  }

  addEventListener("beforeprint", () => onPaper(true));
  addEventListener("afterprint", () => onPaper(false));
  matchMedia("print").addEventListener("change", event => onPaper(event.matches));
})();
