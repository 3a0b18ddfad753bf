// Classes to unit vectors, as the runtime's text/encoder.py: the mean over all words in all templates.

const PHRASES_AT_ONCE = 64;

class ClassEncoder {
  /** Takes the model's settings, its tokenizer, and a function that runs the text graph: ids (B, T) -> (B, D). */
  constructor(settings, tokenize, run) {
    this.settings = settings;
    this.tokenize = tokenize;
    this.run = run;
    this.known = new Map(); // word -> mean over the templates (D,)
  }

  /** Encode the entries of a vocabulary. Returns Float32Array (N, D). */
  async encode(entries) {
    const words = [...new Set(entries.flat())];
    this.check(entries, words);
    await this.learn(words.filter((word) => !this.known.has(word)));
    const width = this.settings.text.width;
    const embeddings = new Float32Array(entries.length * width);
    entries.forEach((synonyms, index) => {
      const mean = average(synonyms.map((word) => this.known.get(word)));
      const length = Math.max(Math.hypot(...mean), 1e-6);
      embeddings.set(mean.map((value) => value / length), index * width);
    });
    return embeddings;
  }

  /** Encode new words, many phrases at once. */
  async learn(words) {
    const templates = this.settings.templates;
    const phrases = words.flatMap((word) => templates.map((template) => template.replaceAll("{}", () => word)));
    const vectors = [];
    for (let first = 0; first < phrases.length; first += PHRASES_AT_ONCE) {
      vectors.push(...(await this.encodePhrases(phrases.slice(first, first + PHRASES_AT_ONCE))));
    }
    words.forEach((word, index) => {
      this.known.set(word, average(vectors.slice(index * templates.length, (index + 1) * templates.length)));
    });
  }

  async encodePhrases(phrases) {
    const tokens = phrases.map((phrase) => this.tokenize(phrase).ids);
    const length = Math.max(1, ...tokens.map((ids) => ids.length));
    const ids = new BigInt64Array(phrases.length * length).fill(BigInt(this.tokenize.padding)); // (B, T)
    tokens.forEach((row, index) => ids.set(row.map(BigInt), index * length));
    const embeddings = await this.run(ids, [phrases.length, length]);
    const width = embeddings.length / phrases.length;
    return phrases.map((_, index) => embeddings.slice(index * width, (index + 1) * width));
  }

  /** Refuse words that the model cannot read or cannot tell apart; see the runtime's text/distinct.py. */
  check(entries, words) {
    const context = this.settings.text.context_length;
    const numbers = new Map(entries.flatMap((synonyms, number) => synonyms.map((word) => [word, number])));
    const seen = new Map();
    for (const word of words) {
      const { tokens } = this.tokenize(word);
      if (!tokens.length || tokens.every((token) => token === this.tokenize.unknown)) {
        throw new UserError(
          `${quoted(word)} has no letters that the model knows: it would be any unknown word; write it in English`,
        );
      }
      if (tokens.length >= context && word.length > context) {
        throw new UserError(
          `'${word.slice(0, 40)}...' is longer than the ${context} tokens that the model reads; shorten it`,
        );
      }
      const key = tokens.join(" ");
      const other = seen.get(key);
      if (other !== undefined && numbers.get(other) !== numbers.get(word)) {
        throw new UserError(
          `${quoted(other)} and ${quoted(word)} are the same to the model: both are the tokens ${key}; leave one ` +
            "out, or choose other words",
        );
      }
      seen.set(key, word);
    }
  }
}

/** The mean of some vectors of one length. */
function average(vectors) {
  const mean = new Float64Array(vectors[0].length);
  for (const vector of vectors) vector.forEach((value, i) => (mean[i] += value / vectors.length));
  return mean;
}
