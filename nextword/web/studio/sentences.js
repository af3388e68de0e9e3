// One plain sentence per station, true of what is on the screen; names and shapes for experts.
import { count, exact, percent, visible } from "./components/parts.js";

export function say(station, { model, odds, tokens, why }, expert) {
  if (!model || !odds) return "";
  const known = why?.why.token.id === odds.draw.token.id ? why : null;
  return (expert ? EXPERT : PLAIN)[station](model, odds, tokens ?? { ids: odds.ids }, known);
}

const quoted = (token) => `‘${visible(token).replace(/^ (?=\S)/, "")}’`; // a word's own space is shown on its chip
const short = (number) => (Math.floor(100 * number) / 100).toFixed(2); // below 1, as the number is

// The strongest claims that held, for the word and against it.
function reasons({ why, prompt }, token) {
  const named = ({ kind, source, layer, head, neuron, words }) => (kind === "read" ? `${quoted(prompt.tokens[source])}, read by head ${layer}.${head}` : kind === "neuron" ? `neuron ${layer}.${neuron}, which answers to a pattern` : words);
  const strongest = (sign) => why.causes.filter((cause) => cause.holds && sign * cause.claim > 0).sort((a, b) => sign * (b.claim - a.claim))[0];
  const sides = [["for", strongest(1)], ["against", strongest(-1)]].filter(([, cause]) => cause);
  if (!sides.length) return `No single part that was tested made the model say ${quoted(token)}.`;
  const told = sides.map(([side, cause]) => `What spoke ${side} ${quoted(token)} most: ${named(cause)}.`).join(" ");
  return `${told} Tested by running the model without ${sides.length > 1 ? "each" : "it"}.`;
}

const PLAIN = {
  tokens: (model, odds, { ids }) => `The text is cut into ${ids.length} ${ids.length === 1 ? "piece" : "pieces"}. Each is a number to the model.`,
  layers: (model) => `The pieces go through ${model.layers === 1 ? "one layer. In it" : `${model.layers} layers. In each`}, the last piece looks back at the others.`,
  odds: (model, { odds: { chosen, rows } }) => `The model has ${count(model.vocab)} pieces to choose from. Its favourite is ${quoted(rows[0].token)} with ${percent(rows[0].probability)}; ${chosen.rank === 1 ? "that is also the one drawn." : `${quoted(chosen.token)}, the one drawn, had ${percent(chosen.probability)}.`}`,
  draw: (model, { draw }) => (draw.how === "greedy" ? "Nothing is left to chance: the favourite is taken." : draw.by_hand ? `You moved the number to ${short(draw.number)}; it lies on ${quoted(draw.token.token)}.` : `A random number, ${short(draw.number)}, falls on ${quoted(draw.token.token)}.`),
  word: (model, { draw }) => `${quoted(draw.token.token)} comes next. It will join the text, and everything begins again.`,
  why: (model, { draw }, tokens, known) => (known ? reasons(known, draw.token.token) : `Why ${quoted(draw.token.token)}? Parts of the model pushed it up or down, and each claim can be tested.`),
  where: () => "Where might the word come from: copied from your text, or known from what the model was trained on?",
};

const EXPERT = {
  tokens: (model, odds, { ids }) => `${ids.length} ids of a vocabulary of ${count(model.vocab)}; the context holds ${count(model.context)}.`,
  layers: (model) => `Residual [${model.width}] through ${model.layers} blocks of ${model.heads} heads. Pattern of the last position; logit lens after every block.`,
  odds: (model, { odds: { chosen, sampling, filters } }) => `p = ${exact(chosen.probability)}, rank ${chosen.rank}, drawn with ${exact(chosen.filtered_probability)}; temperature ${sampling.temperature}${filters.map((each) => `, ${each.filter} removed ${count(each.tokens)} (mass ${each.mass.toPrecision(3)})`).join("")}.`,
  draw: (model, { draw }) => (draw.how === "greedy" ? "Temperature 0: argmax, no draw." : `u = ${exact(draw.number)}${draw.by_hand ? " by hand" : ` = Philox(key ${draw.seed}, counter ${draw.position})`}, in [${draw.interval.map((end) => end.toFixed(6)).join(", ")}).`),
  word: (model, { draw }) => `id ${draw.token.id} at position ${draw.position}.`,
  why: () => "Exact ledger of the logit above its mean under p; every cause zero-ablated and measured.",
  where: () => "Longest matches and n-grams of the indexed training text.",
};
