// The stations of two texts side by side, drawn by the same elements as one; each is asked for when it is opened.
import { el } from "./elements/parts.js";
import { ask, soon } from "./ask.js";

const SIDES = ["left", "right"];
// Title, the question to the server, and the elements with the part of the answer that each shows.
const STATIONS = {
  tokens: ["Tokens", "tokens", { "nw-tokens": (reply) => reply, "nw-merges": (reply) => reply }],
  layers: ["Layers: what each read, and what it would have said at each depth", "look", { "nw-attention": (reply) => reply }],
  distribution: ["Probabilities and the draw: settings and seed as in ‘Watch a word’", "distribution", { "nw-distribution": (reply) => reply.distribution, "nw-draw": (reply) => reply.draw }],
  leaving: ["Why: leave out a word of the text", "leave_one_out", { "nw-leave-one-out": (reply) => reply }],
  apart: ["Why: the parts of the model, each put to the test", "why", { "nw-why": (reply) => reply.why, "nw-lens": (reply) => reply.lens }],
  where: ["Where from", "why", { "nw-sources": (reply) => reply.sources, "nw-bigrams": (reply) => reply.bigrams }],
};

// `questions()` gives the request of each side, null where the side cannot answer; `guard` shows errors. Returns a
// function to call when the questions have changed.
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
        const requests = questions();
        const replies = await Promise.all(SIDES.map((side) => requests[side] && answer(name, requests[side]))).finally(() => (busy.hidden = true));
        for (const [at, side] of sides.entries()) {
          side.querySelector(".muted").hidden = replies[at] !== null;
          for (const [element, piece] of Object.entries(elements)) {
            if (element === "nw-why") side.querySelector(element).tokens = replies[at]?.prompt.tokens ?? null;
            side.querySelector(element).data = replies[at] && piece(replies[at]);
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
