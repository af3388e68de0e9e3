// The prompt as the model reads it: tokens, each with its id.
import { Component, chip, el, visible } from "./parts.js";

export class NwTokens extends Component {
  describe({ ids, tokens, bytes, marks }) {
    const hex = (at) => (bytes && !marks?.[at] ? bytes[at].map((byte) => byte.toString(16).padStart(2, "0")).join(" ") : null);
    const chips = tokens.map((token, at) => {
      const words = [`position ${at}`, `id ${ids[at]}`, ...(hex(at) ? [`bytes ${hex(at)}`] : [])].join(", ");
      return el("li", { title: words, "data-position": at }, chip(token), el("small", {}, String(ids[at])), hex(at) ? el("small", { class: "nw-bytes" }, hex(at)) : null);
    });
    const words = tokens.length === 1 ? "one token, a piece of text" : `${tokens.length} tokens, which are words or pieces of words`;
    const mark = marks?.indexOf(true) ?? -1;
    return [
      el("p", {}, `The model does not see letters. It reads ${words}, and knows each by a number.`),
      el("ol", { class: "nw-chips" }, ...chips),
      mark < 0 ? null : el("p", { class: "nw-muted" }, `${visible(tokens[mark])} is no text but a mark: it says that a text begins or ends here.`),
    ];
  }
}
customElements.define("nw-tokens", NwTokens);
