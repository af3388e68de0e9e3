"use strict";
// A cross-hair over the charts: the nearest step's numbers, by pointer or with the arrow keys. All numbers and their
// words come from the page; without this script nothing but the cross-hair is missing.
const { rows: points, names } = JSON.parse(document.getElementById("points").textContent);
for (const board of document.querySelectorAll(".board")) {
  const scale = board.classList.contains("magnified") ? (step) => Math.log(Math.max(step, 1)) : (step) => step;
  const [low, high] = [scale(Number(board.dataset.low)), scale(Number(board.dataset.high))];
  const rows = points.filter((row) => row[0] >= Number(board.dataset.low));
  const places = rows.map((row) => (scale(row[0]) - low) / (high - low));
  const plots = [...board.querySelectorAll(".plot")];
  const said = board.querySelector(".hidden");
  let current = rows.length - 1;

  const hide = () => board.querySelectorAll(".cross, .tip").forEach((element) => element.remove());
  const show = (index, plot) => {
    hide();
    current = index;
    for (const each of plots) {
      const cross = each.appendChild(document.createElement("div"));
      cross.className = "cross";
      cross.style.left = `${100 * places[index]}%`;
    }
    const tip = plot.appendChild(document.createElement("div"));
    tip.className = "tip";
    tip.textContent = names.map((name, i) => rows[index][i + 1] && `${name} ${rows[index][i + 1]}`).filter(Boolean).join("\n");
    const room = plot.clientWidth - tip.offsetWidth;
    const left = places[index] * plot.clientWidth;
    tip.style.left = `${Math.max(0, Math.min(room, left > plot.clientWidth / 2 ? left - tip.offsetWidth - 12 : left + 12))}px`;
  };
  const nearest = (place) =>
    places.reduce((best, each, i) => (Math.abs(each - place) < Math.abs(places[best] - place) ? i : best), 0);

  for (const plot of plots) {
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      show(nearest((event.clientX - box.left) / box.width), plot);
    });
    plot.addEventListener("pointerleave", hide);
  }
  const main = plots[0];
  main.tabIndex = 0;
  main.setAttribute("role", "group");
  main.setAttribute("aria-label", "Learning curve; the arrow keys read out its steps");
  main.addEventListener("focus", () => show(current, main));
  main.addEventListener("blur", hide);
  main.addEventListener("keydown", (event) => {
    const target = { ArrowLeft: current - 1, ArrowRight: current + 1, Home: 0, End: rows.length - 1 }[event.key];
    if (event.key === "Escape") hide();
    if (target === undefined) return;
    event.preventDefault();
    show(Math.max(0, Math.min(rows.length - 1, target)), main);
    said.textContent = main.querySelector(".tip").textContent;
  });
}
