// The prompt as the model reads it: pieces of words, each with its number.
import { Component, chip, el } from "./parts.js";

export class NwTokens extends Component {
  describe({ ids, tokens }) {
    const chips = tokens.map((token, at) => el("li", { title: `position ${at}, id ${ids[at]}`, "data-position": at }, chip(token), el("small", {}, String(ids[at]))));
    const words = tokens.length === 1 ? "one token, a piece of text" : `${tokens.length} tokens, which are words or pieces of words`;
    return [
      el("p", {}, `The model does not see letters. It reads ${words}, and knows each by a number.`),
      el("ol", { class: "nw-chips" }, ...chips),
    ];
  }
}
customElements.define("nw-tokens", NwTokens);
