// The stations of two journeys side by side, drawn by the components of one; each is asked for when it is opened.
import { el } from "./elements/parts.js";
import { ask, soon } from "./ask.js";

const SIDES = ["left", "right"];
// Title, the question to the server, and the elements with what they show of its answer.
const STATIONS = {
  tokens: ["Tokens", "tokens", { "nw-tokens": (told) => told, "nw-merges": (told) => told }],
  layers: ["Layers: what each read, and what it would have said at each depth", "look", { "nw-attention": (told) => told }],
  distribution: ["Probabilities and the draw: settings and seed as in ‘Watch a word’", "distribution", { "nw-distribution": (told) => told.distribution, "nw-draw": (told) => told.draw }],
  leaving: ["Why: leave out a word of the text", "leave_one_out", { "nw-leave-one-out": (told) => told }],
  apart: ["Why: the parts of the model, each put to the test", "why", { "nw-why": (told) => told.why, "nw-lens": (told) => told.lens }],
  where: ["Where from", "why", { "nw-sources": (told) => told.sources, "nw-bigrams": (told) => told.bigrams }],
};

// `questions()` has the question of each side, null where it cannot be asked; `guard` shows what goes wrong. What comes
// back is to be called when the questions have changed.
export function layOut(place, questions, guard) {
  const answers = new Map();
  const answer = (name, question) => {
    const key = JSON.stringify([name, question]);
    if (!answers.has(key)) answers.set(key, ask(name, question));
    answers.get(key).catch(() => answers.delete(key));
    return answers.get(key);
  };
  const open = Object.entries(STATIONS).map(([id, [title, name, elements]]) => {
    const busy = el("p", { class: "busy", hidden: "" }, "Asking both sides…");
    const sides = SIDES.map((side, at) => el("div", { "data-journey": side }, el("h3", {}, "AB"[at]), el("p", { class: "muted", hidden: "" }, "This model does not have the word."), ...Object.keys(elements).map((element) => el(element))));
    const station = el("details", { id: `both-${id}` }, el("summary", {}, title), busy, el("div", { class: "pair" }, ...sides));
    const draw = soon(() =>
      guard(`both-${id}`, async () => {
        if (!station.open) return;
        busy.hidden = false;
        const asked = questions();
        const told = await Promise.all(SIDES.map((side) => asked[side] && answer(name, asked[side]))).finally(() => (busy.hidden = true));
        for (const [at, side] of sides.entries()) {
          side.querySelector(".muted").hidden = told[at] !== null;
          for (const [element, piece] of Object.entries(elements)) {
            if (element === "nw-why") side.querySelector(element).tokens = told[at]?.prompt.tokens ?? null;
            side.querySelector(element).data = told[at] && piece(told[at]);
          }
        }
      }),
    );
    station.addEventListener("toggle", (event) => event.target === station && draw());
    place.append(station);
    return draw;
  });
  return () => {
    answers.clear();
    for (const draw of open) draw();
  };
}
