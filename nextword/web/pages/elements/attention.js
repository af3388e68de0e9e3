// The attention of the last token, layer by layer, and the most probable tokens after each layer.
import { Component, chip, count, el, exact, figures, percent, svg, visible } from "./parts.js";

const LETTERS = { previous: ["P", "the word before"], duplicate: ["S", "same word earlier"], induction: ["C", "copies what followed"], first: ["F", "rests on the first word"] };

export class NwAttention extends Component {
  #layer = null;
  #head = null;

  describe(data) {
    const last = data.layers.length - 1;
    if (this.#layer === null || this.#layer > last) this.#layer = last;
    const slider = el("input", { type: "range", min: 0, max: last, value: this.#layer, "aria-label": "Layer" });
    const place = el("output", {});
    const heads = el("p", { class: "nw-heads", role: "group", "aria-label": "Heads of this layer" });
    const picture = el("div", { class: "nw-arcs", tabindex: "0", role: "region", "aria-label": "Attention arcs; left and right choose one" });
    const said = el("p", { class: "nw-muted", "aria-live": "polite" });
    const lens = el("ol", { class: "nw-depths" });
    let drawing = null;
    let lit = null;
    let summarize = () => null;
    // One arc at a time, by pointer or by the arrow keys.
    const light = (at) => {
      if (at === lit) return;
      lit = at;
      drawing.classList.toggle("nw-looked", at !== null);
      for (const part of drawing.querySelectorAll("[data-at]")) part.classList.toggle("nw-lit", part.dataset.at === at);
      if (at === null) return summarize();
      const word = drawing.querySelector(`text[data-at="${at}"]`);
      said.replaceChildren("It took ", el("b", {}, word.dataset.share), " from ", named(data, at, "nw-chosen"), ".");
      word.scrollIntoView({ block: "nearest", inline: "nearest" });
    };
    picture.addEventListener("pointerover", (event) => light(event.target.dataset.at ?? null));
    picture.addEventListener("pointerleave", () => light(null));
    picture.addEventListener("blur", () => light(null));
    picture.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const words = drawing.querySelectorAll("text");
      light(words[Math.min(Math.max((lit === null ? words.length : [...words].findIndex((word) => word.dataset.at === lit)) + step, 0), words.length - 1)].dataset.at);
    });
    const show = () => {
      place.textContent = `layer ${this.#layer}${this.#layer === last ? ", the last" : ""}`;
      const row = data.layers[this.#layer];
      if (this.#head !== null && this.#head >= row.length) this.#head = null;
      heads.replaceChildren(this.#button("all heads", null, show), ...row.map((head, at) => this.#button(`head ${this.#layer}.${at}${role(head, ": ")}`, at, show)));
      const shares = this.#head === null ? mean(row.map((head) => head.pattern)) : row[this.#head].pattern;
      drawing = arcs(data, shares);
      lit = null;
      picture.replaceChildren(drawing);
      requestAnimationFrame(() => (picture.scrollLeft = picture.scrollWidth));
      summarize = () => said.replaceChildren("It took ", ...best.flatMap(([share, at], number) => [number ? ", " : "", `${percent(share)} from `, named(data, at)]), ".");
      const best = shares.map((share, at) => [share, at]).sort((a, b) => b[0] - a[0]).slice(0, 3);
      summarize();
      lens.replaceChildren(...data.lens.map((best3, at) => el("li", { class: at - 1 === this.#layer ? "nw-here" : null, "data-layer": at - 1 }, el("span", { class: "nw-where" }, at ? `layer ${at - 1}` : "at the start"), this.#cells(data.layers[at - 1] ?? [], at - 1), ...best3.map((each) => el("span", { title: exact(each.probability) }, chip(each.token), ` ${percent(each.probability)}`)))));
    };
    slider.addEventListener("input", () => {
      this.#layer = Number(slider.value);
      show();
    });
    // Choose a layer or one of its heads by pointer; the slider and the buttons do the same by keyboard.
    lens.addEventListener("click", ({ target }) => {
      const layer = Number(target.closest("[data-layer]")?.dataset.layer ?? -1);
      if (layer < 0) return;
      slider.value = this.#layer = layer;
      this.#head = target.dataset.head === undefined ? null : Number(target.dataset.head);
      show();
    });
    show();
    const kinds = Object.entries(LETTERS).filter(([kind]) => data.layers.some((row) => row.some((head) => head.kind === kind)));
    const table = data.layers.flatMap((row, layer) => row.map((head, at) => [`${layer}.${at}`, role(head) || null, named(data, top(head.pattern)), head.pattern[top(head.pattern)]]));
    return [
      el("p", {}, "To find the next word, the last token looks back at the words before it. A thicker arc took in more."),
      el("p", { class: "nw-row" }, slider, place),
      heads,
      picture,
      said,
      el("p", {}, "If it had to speak early, it would have said:"),
      el("p", { class: "nw-muted" }, "Each box is a head of the layer; click one to see where it looks.", kinds.length ? ` Letters are measured roles: ${kinds.map(([, [letter, words]]) => `${letter} ${words}`).join(", ")}.` : ""),
      lens,
      el("p", { class: "nw-muted" }, "A view, not a vote: the early layers were not made to be read this way."),
      this.exactly(`Exact numbers: ${count(table.length)} heads`, figures(["head", "measured role", "looked most at", "share"], table)),
    ];
  }

  #cells(row, layer) {
    const cell = (head, at) => el("span", { class: `nw-cell${layer === this.#layer && (this.#head === at || this.#head === null) ? " nw-seen" : ""}`, "data-head": at, title: `head ${layer}.${at}${role(head, ": ")}` }, head.kind ? LETTERS[head.kind][0] : "");
    return el("span", { class: "nw-cells", "aria-hidden": "true" }, ...row.map(cell));
  }

  #button(words, head, show) {
    const button = el("button", { type: "button", class: "nw-button", "aria-pressed": String(this.#head === head) }, words);
    button.addEventListener("click", () => {
      this.#head = head;
      show();
      this.querySelector('.nw-heads [aria-pressed="true"]')?.focus();
    });
    return button;
  }
}

function role({ kind, share }, before = "") {
  return kind === null ? "" : `${before}${LETTERS[kind][1]} (${percent(share)})`;
}

function mean(patterns) {
  return patterns[0].map((_, at) => patterns.reduce((sum, each) => sum + each[at], 0) / patterns.length);
}

function top(shares) {
  return shares.reduce((best, share, at) => (share > shares[best] ? at : best), 0);
}

// A token of the line, or the place that stands for all tokens that do not fit on it.
function named({ tokens, between }, at, kind = "") {
  return tokens[at] === null ? `${count(between)} others` : chip(tokens[at], kind);
}

function arcs({ tokens, between }, values) {
  const words = tokens.map((token) => (token === null ? `… ${count(between)} …` : visible(token).length > 14 ? `${visible(token).slice(0, 13)}…` : visible(token)));
  const position = (at) => (tokens[at] === null ? null : between && at ? at + between - 1 : at);
  const widths = words.map((word) => 16 + 8.2 * word.length);
  const centres = widths.map((width, at) => widths.slice(0, at).reduce((sum, each) => sum + each, 0) + width / 2);
  const total = widths.reduce((sum, each) => sum + each, 0);
  const last = centres.at(-1);
  const height = Math.min(130, 30 + (last - centres[0]) / 3);
  const label = `Arcs from ${words.at(-1)} to: ${words.map((word, at) => `${word} ${percent(values[at])}`).join(", ")}.`;
  const curves = values.map((share, at) => {
    if (share < 0.005) return null;
    const rise = at === words.length - 1 ? 18 : Math.min(height - 6, 16 + (last - centres[at]) / 2.6);
    const d = at === words.length - 1 ? `M${last - 6} ${height}c-10 -${rise} 22 -${rise} 12 0` : `M${last} ${height}C${last} ${height - 1.3 * rise} ${centres[at]} ${height - 1.3 * rise} ${centres[at]} ${height}`;
    return svg("path", { class: "nw-arc", "data-at": at, d, "stroke-width": 0.75 + 9 * share, opacity: 0.35 + 0.65 * share }, svg("title", {}, `${words[at]}: ${percent(share)}`));
  });
  const names = words.map((word, at) => svg("text", { x: centres[at], y: height + 18, "data-at": at, "data-position": position(at), "data-share": percent(values[at]), class: at === words.length - 1 ? "nw-from" : null }, word));
  return svg("svg", { width: total, height: height + 28, viewBox: `0 0 ${total} ${height + 28}`, role: "img", "aria-label": label }, ...curves, ...names);
}

customElements.define("nw-attention", NwAttention);
