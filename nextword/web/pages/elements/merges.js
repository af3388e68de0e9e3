// Byte-pair merges, one at a time: from single bytes to the tokens of the prompt.
import { Component, chip, count, el } from "./parts.js";

export class NwMerges extends Component {
  describe({ tokens, merges, earlier }) {
    const last = Math.max(0, ...merges.map((steps) => steps.length - 1));
    const board = el("ol", { class: "nw-merged" });
    const said = el("output", { class: "nw-muted" });
    const slider = el("input", { type: "range", min: 0, max: last, value: 0, "aria-label": "Merges done" });
    const play = el("button", { type: "button", class: "nw-button" }, "Play");
    const show = () => {
      const step = Number(slider.value);
      board.replaceChildren(...merges.map((steps, at) => {
        const parts = steps.length ? steps[Math.min(step, steps.length - 1)] : [tokens[at]];
        return el("li", { class: parts.length === 1 ? "nw-whole" : null }, ...parts.map((part) => chip(part)));
      }));
      said.textContent = step === last ? `after ${step} merges: tokens` : step ? `after ${step} ${step === 1 ? "merge" : "merges"} in each word` : "single bytes";
    };
    slider.addEventListener("input", show);
    let timer = 0;
    play.addEventListener("click", () => {
      clearInterval(timer);
      slider.value = 0;
      show();
      timer = setInterval(() => {
        if (!this.isConnected || Number(slider.value) >= last) return clearInterval(timer);
        slider.value = Number(slider.value) + 1;
        return show();
      }, 700);
    });
    show();
    return [el("p", { class: "nw-row" }, play, slider, said), board, earlier ? el("p", { class: "nw-muted" }, `The ${count(earlier)} ${earlier === 1 ? "token" : "tokens"} before are not shown.`) : null];
  }
}

customElements.define("nw-merges", NwMerges);
