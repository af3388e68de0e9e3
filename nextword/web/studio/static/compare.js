// Two texts, or two models, side by side: both probabilities of each token, and their difference.
import { Component, chip, el, exact, figures, percent, picture, signed, svg, visible } from "./elements/parts.js";
import { ask, calm, soon } from "./ask.js";
import { layOut } from "./journeys.js";
import { fillModels } from "./models.js";

const $ = (selector) => document.querySelector(selector);
const SIDES = ["left", "right"];

export class StudioCompare extends Component {
  describe({ rows, rest, distance, left, right }) {
    const shown = [...rows, { ...rest, other: true }];
    const widest = Math.max(...shown.flatMap((row) => SIDES.map((side) => row[side] ?? 0)));
    const furthest = Math.max(...shown.map(change).map(Math.abs), 1e-9);
    const line = (row) => {
      const name = row.other ? "all others" : visible(row.token);
      const shares = SIDES.map((side) => (row[side] === null ? "–" : percent(row[side])));
      const moved = change(row);
      const bars = picture(20, `${name}: ${shares[0]} after A, ${shares[1]} after B`, bar("nw-rest-fill", 1, row.left, widest), bar("nw-word-fill", 11, row.right, widest));
      const length = (490 * Math.abs(moved)) / furthest;
      const arrow = picture(20, `difference ${points(moved)}`, svg("path", { class: "nw-zero", d: "M500 0v20" }), svg("rect", { class: moved < 0 ? "nw-against-fill" : "nw-for-fill", x: moved < 0 ? 500 - length : 500, y: 4, width: length, height: 12 }));
      return el("li", {}, row.other ? el("span", {}, "all others") : el("span", {}, chip(row.token)), el("span", { class: "nw-bar" }, bars), el("span", { class: "nw-number", title: SIDES.map((side) => exact(row[side])).join(" → ") }, `${shares[0]} → `, el("b", {}, shares[1])), el("span", { class: "nw-bar change" }, arrow), el("span", { class: "nw-number points" }, points(moved)));
    };
    const same = left.top1.token === right.top1.token;
    return [
      el("p", {}, "After A the most probable is ", chip(left.top1.token), ` with ${percent(left.top1.probability)}; after B it is ${same ? "the same, " : ""}`, chip(right.top1.token, "nw-chosen"), ` with ${percent(right.top1.probability)}. ${percent(1 - distance)} of the probability is shared, ${percent(distance)} lie elsewhere.`),
      el("p", { class: "muted" }, "Grey is A, blue is B. The bar on the right is the difference: to the right where B makes the word more probable, to the left where less.", rows.some((row) => row.left === null || row.right === null) ? " – stands for a token that this model does not have." : ""),
      el("ol", { class: "nw-rows compare-rows" }, ...shown.map(line)),
      this.exactly("Exact numbers", el("p", {}, `Total variation ${exact(distance)}. Entropy: A ${exact(left.entropy)} bits, B ${exact(right.entropy)} bits. Models: A ${left.model}, B ${right.model}. Temperature and filters are not applied here.`)),
    ];
  }
}

function bar(kind, y, share, widest) {
  return svg("rect", { class: kind, y, width: (998 * (share ?? 0)) / widest, height: 8 });
}

function change(row) {
  return (row.right ?? 0) - (row.left ?? 0);
}

function points(change) {
  const value = Math.abs(change) < 5e-4 ? 0 : 100 * change;
  return `${value < 0 ? "−" : value ? "+" : ""}${Math.abs(value) >= 10 ? Math.abs(value).toFixed(0) : Math.abs(value).toFixed(1)}`;
}

customElements.define("studio-compare", StudioCompare);

// Two models of one architecture, or two texts: the logit of one word in both, as sums over the same components.
export class StudioDifference extends Component {
  describe({ texts, token, components, rest, change, before, after, logprob }) {
    const rows = [...components, { words: "all other components together", change: rest, other: true }, { words: "the change in all", change: change.total, before: before.total, after: after.total, total: true }];
    const furthest = Math.max(...rows.map((row) => Math.abs(row.change)), 1e-9);
    const line = (row) => {
      const length = (490 * Math.abs(row.change)) / furthest;
      const kind = row.total ? "nw-word-fill" : row.other ? "nw-rest-fill" : row.change < 0 ? "nw-against-fill" : "nw-for-fill";
      const shape = picture(20, `${row.words}: ${signed(row.change)}`, svg("path", { class: "nw-zero", d: "M500 0v20" }), svg("rect", { class: kind, x: row.change < 0 ? 500 - length : 500, y: 3, width: length, height: 14 }));
      return el("li", { class: row.total ? "nw-this" : null }, el("span", {}, row.words), el("span", { class: "nw-bar" }, shape), el("span", { class: "nw-number", title: exact(row.change) }, signed(row.change)));
    };
    return [
      el("p", {}, "How much each part adds to the score of ", chip(token.token, "nw-chosen"), ` (its logit${texts ? ", above the mean of all tokens" : ""}), in B less in A. A bar to the right: this part speaks more for it in B. Together they make ${signed(change.total)}: from ${signed(before.total)} to ${signed(after.total)}.`),
      el("ol", { class: "nw-rows nw-why-rows" }, ...rows.map(line)),
      el("p", { class: "nw-muted" }, `It says where the change appears, not which ${texts ? "word" : "weights"} made it. Head 3.1 is number 1 of layer 3, both counted from 0.`),
      this.exactly("Exact numbers", figures(["component", "in A", "in B", "change"], components.map((row) => [row.words, row.before, row.after, row.change])), figures(["part", "change"], [...Object.entries(change.parts), ["remainder", change.remainder]]), el("p", {}, `log p: A ${exact(logprob.before)}, B ${exact(logprob.after)} nats.`)),
    ];
  }
}

customElements.define("studio-difference", StudioDifference);

// List the models to choose from; a choice made before stays.
export function fillSides(model) {
  for (const name of SIDES) {
    const select = $(`#model-${name}`);
    fillModels(select, model, select.value || model.name, true);
    select.parentElement.hidden = select.options.length < 2;
  }
}

// The view, built when it is first opened. `guard` shows errors; `settings()` gives sampling settings and seed.
export function openCompare(model, guard, settings) {
  let rows = [];
  const word = () => rows[Number($("#compared-word").value)];
  const side = (name) => ({ prompt: $(`#text-${name}`).value, model: $(`#model-${name}`).value });
  const sides = () => ({ left: side("left"), right: side("right") });
  const differ = soon(() =>
    guard("difference", async () => {
      if (!$("#differing").open || $("#differing").hidden) return;
      $("#differing .busy").hidden = false;
      const question = { ...sides(), token: word().ids.right };
      $("studio-difference").data = await ask("difference", question).finally(() => ($("#differing .busy").hidden = true));
    }),
  );
  const about = (name) => (word() && word().ids[name] !== null ? { ...side(name), ...settings(), token: word().ids[name] } : null);
  const redraw = layOut($("#both"), () => ({ left: about("left"), right: about("right") }), guard);
  const draw = soon(() =>
    guard("compare", async () => {
      const reply = await ask("compare", sides());
      const known = word()?.token ?? reply.right.top1.token;
      rows = reply.rows;
      const at = rows.findIndex((row) => row.token === known);
      $("#compared-word").replaceChildren(...rows.map((row, number) => el("option", { value: number }, visible(row.token))));
      $("#compared-word").value = Math.max(at, 0);
      $("studio-compare").data = reply;
      $("#differing").hidden = !reply.alike;
      $("#unlike").hidden = reply.alike;
      if (reply.alike) differ();
      redraw();
    }),
  );
  fillSides(model);
  for (const name of SIDES) {
    $(`#model-${name}`).addEventListener("change", draw);
    $(`#text-${name}`).addEventListener("input", calm(150, draw));
  }
  const [left, right] = SIDES.map((name) => $(`#model-${name}`));
  if (right.options.length > 1) {
    $("#text-right").value = $("#text-left").value;
    right.selectedIndex = left.selectedIndex === 0 ? 1 : 0;
  }
  $("#differing").addEventListener("toggle", differ);
  $("#compared-word").addEventListener("change", () => {
    differ();
    redraw();
  });
  $("#swap").addEventListener("click", () => {
    for (const kind of ["text", "model"]) [$(`#${kind}-left`).value, $(`#${kind}-right`).value] = [$(`#${kind}-right`).value, $(`#${kind}-left`).value];
    draw();
  });
  draw();
}
