// Where the token may come from: passages of the prompt and of the indexed text, each test with its threshold.
import { Component, chip, count, el, exact, figures, percent } from "./parts.js";

const KINDS = {
  prompt: ["copied from your prompt", "tokens in a row"],
  verbatim: ["recited from the text", "tokens in a row"],
  rule: ["a rule of thumb of the text", "of the places"],
  none: ["none of these", ""],
};

export class NwSources extends Component {
  describe({ note, evidence, text }) {
    if (evidence === null) return [el("p", {}, note)];
    const tests = [...evidence.tests, { kind: "none", found: null, holds: evidence.kind === "none" }];
    const number = (kind, value) => (kind === "rule" ? percent(value) : count(value));
    const rows = tests.map(({ kind, found, needed, holds }) => {
      const [name, unit] = KINDS[kind];
      const words = found === null ? "" : `${number(kind, found)} ${unit}; ${number(kind, needed)} or more would be one`;
      return el("li", { class: kind === evidence.kind ? "nw-this" : null }, el("b", { class: "nw-mark", role: "img", "aria-label": holds ? "yes" : "no" }, holds ? "✓" : "–"), el("span", {}, name), el("span", { class: "nw-muted" }, words));
    });
    return [
      el("p", {}, note),
      el("ul", { class: "nw-kinds" }, ...rows),
      ...passages(evidence.longest),
      seen(evidence.exposures),
      this.exactly(
        "Exact numbers: n-grams and the text",
        el("p", {}, `Indexed: ${count(text.tokens)} tokens of ${count(text.documents)} documents in ${text.folder}, hash ${text.hash}. That a passage stands in the text does not prove that it was recalled.`),
        figures(["after", "places", "this token", "its share", "most frequent"], evidence.ngrams.map((row) => [row.length ? chip(row.context) : "nothing", row.count, row.of_token.count, row.of_token.share, el("span", {}, ...row.next.flatMap((each) => [chip(each.token), ` ${percent(each.share)} `]))])),
        figures(["account", "value"], Object.entries(evidence.account).map(([name, value]) => [name.replaceAll("_", " "), exact(value)])),
      ),
    ];
  }
}

function passages(longest) {
  if (longest === null) return [el("p", {}, "The token never stands in the text.")];
  const times = longest.count === 1 ? "once" : `${count(longest.count)} times`;
  const quotes = longest.places.map((place) =>
    el("li", {}, el("blockquote", {}, "…", place.before, el("mark", {}, place.match), place.after, "…"), el("p", { class: "nw-muted" }, place.title ? `${place.title}, ` : "", `${place.source}, line ${count(place.line)}`)),
  );
  return [el("p", {}, "The longest run of words that ends with this one and stands in the text, ", times, ": ", chip(longest.text, "nw-chosen")), el("ul", { class: "nw-quotes" }, ...quotes)];
}

function seen(exposures) {
  if (exposures === null) return null;
  const { steps, places, read, in_steps } = exposures;
  const rows = exposures.seen.map((place) => el("li", {}, `${place.source}, line ${count(place.line)}: at step ${place.steps.map(count).join(", ")}${place.times > place.steps.length ? " …" : ""}`));
  const where = `Of ${count(places)} ${places === 1 ? "place" : "places"} that were looked up`;
  if (!read) return el("p", {}, `${where}, none was read in the ${count(steps)} steps of training.`);
  return el("div", {}, el("p", {}, `${where}, ${count(read)} ${read === 1 ? "was" : "were"} read, in ${count(in_steps)} of the ${count(steps)} steps of training. The first:`), el("ul", {}, ...rows));
}
customElements.define("nw-sources", NwSources);
