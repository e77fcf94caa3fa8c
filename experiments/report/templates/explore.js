// One chart, one slider: means and 95 % intervals that the page already holds, drawn as SVG.
(() => {
  const views = JSON.parse(document.getElementById("explore-values").textContent);
  const form = document.querySelector("form.explore");
  const [legend, fieldset] = [form.querySelector("legend"), form.querySelector("fieldset")];
  const [chart, answer] = [form.querySelector(".chart"), form.querySelector("output")];
  const box = { width: 0, height: 320, left: 40, right: 12, top: 34, bottom: 30 }; // in pixels
  let chosen = 0; // the line that the slider reads

  const element = (name, attributes, parent, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  };

  // x values stand at equal distances: their order is what matters, and 0 has a place.
  function scales(view) {
    const cells = view.lines.flatMap((line) => line.cells).filter((cell) => cell.mean !== null);
    const highest = Math.max(...cells.map((cell) => cell.mean + cell.half));
    const step = highest > 0.5 ? 0.2 : 0.1;
    const top = Math.max(step, Math.min(1, Math.ceil(highest / step) * step));
    const [wide, high] = [box.width - box.left - box.right, box.height - box.top - box.bottom];
    return {
      step,
      top,
      x: (i) => box.left + (wide * (i + 0.5)) / view.x.length,
      y: (value) => box.top + high * (1 - Math.max(0, Math.min(value, top)) / top),
    };
  }

  function axes(svg, view, at, index) {
    element("text", { class: "tick", x: 0, y: 16 }, svg, view.labels[1]);
    for (let value = 0; value < at.top + at.step / 2; value += at.step) {
      const y = at.y(value);
      element("line", { class: "grid", x1: box.left, x2: box.width - box.right, y1: y, y2: y }, svg);
      element("text", { class: "tick end", x: box.left - 8, y: y + 5 }, svg, value.toFixed(1));
    }
    const every = Math.ceil(view.x.length / (box.width / 70)); // a name needs 70 pixels
    view.x.forEach((name, i) => {
      if (i % every && i !== index) return;
      if (i !== index && Math.abs(i - index) < every) return; // the chosen value's name has room
      const style = i === index ? "tick middle chosen" : "tick middle";
      element("text", { class: style, x: at.x(i), y: box.height - 8 }, svg, name);
    });
    const x = at.x(index);
    element("line", { class: "cursor", x1: x, x2: x, y1: box.top, y2: at.y(0) }, svg);
  }

  function drawLine(svg, line, at, number) {
    const group = element("g", { class: `line line${number % 4}${number === chosen ? " chosen" : ""}` }, svg);
    const cells = line.cells.map((cell, i) => [i, cell]).filter(([, cell]) => cell.mean !== null);
    const points = cells.map(([i, cell]) => `${at.x(i)},${at.y(cell.mean)}`).join(" ");
    element("polyline", { points }, group);
    for (const [i, cell] of cells) {
      const x = at.x(i);
      const [y1, y2] = [at.y(cell.mean - cell.half), at.y(cell.mean + cell.half)];
      if (cell.half) element("line", { x1: x, x2: x, y1, y2 }, group);
      element("circle", { cx: x, cy: at.y(cell.mean), r: 4 }, group);
    }
  }

  function say(view, index) {
    const line = view.lines[chosen];
    const cell = line.cells[index];
    const [xName, yName, seriesName] = view.labels;
    const where = `${xName}: ${view.x[index]}\n${seriesName}: ${line.name}\n${yName}: `;
    if (cell.mean === null) return `${where}not measured`;
    const half = cell.half ? ` ± ${cell.half.toFixed(3)}` : "";
    const runs = cell.runs > 1 ? ` (${cell.runs} runs)` : "";
    return where + cell.mean.toFixed(3) + half + runs;
  }

  function draw() {
    const view = views[form.view.value];
    const index = Number(form.x.value);
    box.width = Math.max(240, chart.clientWidth);
    const at = scales(view);
    chart.replaceChildren();
    const svg = element("svg", { width: box.width, height: box.height }, chart);
    axes(svg, view, at, index);
    view.lines.forEach((line, number) => number !== chosen && drawLine(svg, line, at, number));
    drawLine(svg, view.lines[chosen], at, chosen); // last, on top of the others
    answer.textContent = say(view, index);
    chart.setAttribute("aria-label", answer.textContent);
  }

  function show() {
    const view = views[form.view.value];
    chosen = view.lines.length - 1;
    form.x.max = view.x.length - 1;
    form.x.value = Math.round((view.x.length - 1) * 0.75);
    form.querySelector(".x-name").textContent = view.labels[0];
    form.querySelector(".note").textContent = view.note;
    legend.textContent = view.labels[2];
    fieldset.replaceChildren(legend, ...view.lines.map((line, number) => {
      const label = document.createElement("label");
      const radio = Object.assign(document.createElement("input"), {
        type: "radio", name: "line", value: number, checked: number === chosen,
      });
      label.className = `line${number % 4}`;
      label.append(radio, line.name);
      return label;
    }));
    draw();
  }

  views.forEach((view, number) => form.view.add(new Option(view.title, number)));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    if (event.target.name === "view") return show();
    if (event.target.name === "line") chosen = Number(event.target.value);
    draw();
  });
  show();
  addEventListener("resize", draw);
})();
