// Text to token numbers, from the bundle's tokenizer.json (Hugging Face's format): WordPiece as BERT has it,
// byte-level BPE as CLIP has it, and whole words. Another tokenizer is refused, never approximated.

/**
 * Open a tokenizer. Returns a function: text -> {ids, tokens}, truncated to `contextLength`, without padding.
 * `padding` of the function is the number that fills a batch, `unknown` the token of what has no number.
 */
function openTokenizer(description, contextLength) {
  const normalize = openNormalizer(description.normalizer);
  const split = openPreTokenizer(description.pre_tokenizer);
  const model = openPieces(description.model);
  const frame = openFrame(description.post_processor);
  const room = contextLength - frame.before.length - frame.after.length;
  const tokenize = (text) => {
    const pieces = split(normalize(text)).flatMap(model.encode).slice(0, room);
    const all = [...frame.before, ...pieces, ...frame.after];
    return { ids: all.map((piece) => piece.id), tokens: all.map((piece) => piece.token) };
  };
  tokenize.padding = description.padding ? description.padding.pad_id : 0;
  tokenize.unknown = description.model.unk_token;
  return tokenize;
}

function unsupported(part, kind) {
  throw new UserError(`the model's tokenizer has the ${part} ${kind}, which this page does not know`);
}

function openNormalizer(step) {
  if (step === null) return (text) => text;
  switch (step.type) {
    case "Sequence": {
      const steps = step.normalizers.map(openNormalizer);
      return (text) => steps.reduce((done, next) => next(done), text);
    }
    case "NFC":
      return (text) => text.normalize("NFC");
    case "Lowercase":
      return lowercase;
    case "Replace":
      if (step.pattern.String === undefined) unsupported("normalizer", "Replace of a pattern");
      return (text) => text.replaceAll(step.pattern.String, () => step.content);
    case "BertNormalizer":
      return (text) => normalizeBert(text, step);
    default:
      return unsupported("normalizer", step.type);
  }
}

/** Lower each character for itself: JavaScript's own lowers a final sigma differently. */
function lowercase(text) {
  return Array.from(text, (character) => character.toLowerCase()).join("");
}

function normalizeBert(text, { clean_text, handle_chinese_chars, strip_accents, lowercase: lower }) {
  if (clean_text) {
    text = text.replace(/(?![\t\n\r])[\p{C}\ufffd]/gu, "").replace(/\p{White_Space}/gu, " ");
  }
  if (handle_chinese_chars) text = text.replace(CHINESE, " $& ");
  if (strip_accents ?? lower) text = text.normalize("NFD").replace(/\p{Mn}/gu, "");
  return lower ? lowercase(text) : text;
}

// Source: BERT, tokenization.py, _is_chinese_char; the last two ranges as in the library tokenizers.
const CHINESE = new RegExp(
  "[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}" +
    "\u{2b920}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]",
  "gu",
);

function openPreTokenizer(step) {
  switch (step && step.type) {
    case "Sequence": {
      const steps = step.pretokenizers.map(openPreTokenizer);
      return (text) => steps.reduce((parts, next) => parts.flatMap(next), [text]);
    }
    case "BertPreTokenizer": // words, and each sign alone
      return (text) => text.match(/[!-/:-@[-`{-~\p{P}]|[^\p{White_Space}!-/:-@[-`{-~\p{P}]+/gu) ?? [];
    case "Whitespace": // words, and runs of signs
      return (text) => text.match(WORDS_AND_SIGNS) ?? [];
    case "Split": {
      if (step.behavior !== "Removed" || !step.invert) unsupported("pre-tokenizer", "Split of another kind");
      const source = step.pattern.Regex ?? escapePattern(step.pattern.String);
      const pattern = new RegExp(source.replaceAll("\\s", "\\p{White_Space}"), "gu"); // JavaScript's \s is another
      return (text) => text.match(pattern) ?? [];
    }
    case "ByteLevel":
      if (step.add_prefix_space || step.use_regex) unsupported("pre-tokenizer", "ByteLevel with its own split");
      return (text) => [Array.from(new TextEncoder().encode(text), (byte) => BYTE_CHARACTERS[byte]).join("")];
    default:
      return unsupported("pre-tokenizer", step ? step.type : "null");
  }
}

const LETTERS = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}"; // what Rust's \w means
const WORDS_AND_SIGNS = new RegExp(`[${LETTERS}]+|[^${LETTERS}\\p{White_Space}]+`, "gu");

function escapePattern(text) {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

// Source: GPT-2, encoder.py, bytes_to_unicode: bytes without a picture become characters from 256 on.
const BYTE_CHARACTERS = (() => {
  const shown = (byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(shown(byte) ? byte : next++));
})();

function openPieces(model) {
  if (model.type === "WordPiece") return openWordPiece(model);
  if (model.type === "BPE") return openBpe(model);
  if (model.type === "WordLevel") return openWordLevel(model);
  return unsupported("model", model.type);
}

/** The longest known beginning of a word, then the longest known continuation, and so on. */
function openWordPiece({ vocab, unk_token, continuing_subword_prefix, max_input_chars_per_word }) {
  const numbers = new Map(Object.entries(vocab));
  const unknown = [{ token: unk_token, id: numbers.get(unk_token) }];
  const encode = (word) => {
    const characters = Array.from(word);
    if (characters.length > max_input_chars_per_word) return unknown;
    const pieces = [];
    for (let start = 0, stop; start < characters.length; start = stop) {
      const prefix = start ? continuing_subword_prefix : "";
      for (stop = characters.length; stop > start; stop--) {
        const token = prefix + characters.slice(start, stop).join("");
        if (numbers.has(token)) {
          pieces.push({ token, id: numbers.get(token) });
          break;
        }
      }
      if (stop === start) return unknown;
    }
    return pieces;
  };
  return { encode };
}

function openWordLevel({ vocab, unk_token }) {
  const numbers = new Map(Object.entries(vocab));
  const known = (word) => (numbers.has(word) ? word : unk_token);
  return { encode: (word) => [{ token: known(word), id: numbers.get(known(word)) }] };
}

/** The pair of neighbours that was merged first in training is merged, until no pair is known. */
function openBpe({ vocab, merges, end_of_word_suffix, continuing_subword_prefix, dropout, unk_token }) {
  if (dropout || continuing_subword_prefix || unk_token) unsupported("model", "BPE of another kind");
  const numbers = new Map(Object.entries(vocab));
  const ranks = new Map(
    merges.map((pair, rank) => [Array.isArray(pair) ? pair.join(" ") : pair, rank]),
  );
  const encode = (word) => {
    const parts = Array.from(word);
    parts[parts.length - 1] += end_of_word_suffix ?? "";
    for (;;) {
      const pairs = parts.slice(1).map((part, i) => ranks.get(`${parts[i]} ${part}`) ?? Infinity);
      const best = Math.min(...pairs);
      if (best === Infinity) return parts.map((token) => ({ token, id: numbers.get(token) }));
      const first = pairs.indexOf(best);
      parts.splice(first, 2, parts[first] + parts[first + 1]);
    }
  };
  return { encode };
}

/** Tokens before and after each text. */
function openFrame(step) {
  if (step === null) return { before: [], after: [] };
  if (step.type !== "TemplateProcessing") unsupported("post-processor", step.type);
  const text = step.single.findIndex((item) => item.Sequence);
  const tokens = step.single.map((item) => {
    const special = item.SpecialToken && step.special_tokens[item.SpecialToken.id];
    return special && { token: special.id, id: special.ids[0] };
  });
  return { before: tokens.slice(0, text), after: tokens.slice(text + 1) };
}
