// Classes as they are typed: the rules and messages of the runtime's text/class_lists.py for a command line.
// "cat, car|automobile, sky": commas and line ends separate classes, | separates words for the same class.

const BACKGROUND = "background";
const BACKGROUND_NAMES = [BACKGROUND, "_background_", "__background__"];
const IGNORED_NAME = "__ignore__";
const SEPARATORS = "\uff0c\u3001;\uff1b\uff5c\u00a6\t";
const MAX_CLASSES = 65535;
const EXAMPLE = "write some words, such as 'cat, grass, sky'";
const CLASS_FILE = /^\S+\.(txt|json|csv|tsv|ya?ml|names)$/i;

/**
 * Read classes with their background.
 * `vocabularies` are the packaged lists by name: {background, classes}. Returns {classes, background,
 * backgroundClasses}: words of each class; whether label 0 is the background; what counts as background.
 */
function readClasses(text, vocabularies) {
  const name = text.trim();
  if (Object.hasOwn(vocabularies, name)) return { ...vocabularies[name], backgroundClasses: [] };
  if (name.startsWith("@")) {
    throw new UserError(`${quoted(name.slice(0, 40))} names a file, and files are not read here; send the names`);
  }
  if (name.startsWith("[") || name.startsWith("{")) {
    throw new UserError("the classes are JSON, which this page does not read; write 'cat, grass, sky'");
  }
  if (CLASS_FILE.test(name)) throw new UserError(`${quoted(name)} looks like a file: send the names themselves`);
  const lines = text
    .replace(/^\ufeff/, "")
    .split(/\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]/)
    .map((line) => line.replace(/(^|\s)#.*/, "").trim())
    .filter((line) => line);
  const entries = lines.flatMap((line) => line.split(",")).map((entry) => entry.split("|").map(cleanWord));
  return makeVocabulary(entries);
}

/** Add classes that count as background; those that share a word with a class are left out. */
function withBackgroundClasses(vocabulary, others) {
  const taken = new Set(vocabulary.classes.flat().map(foldCase));
  const kept = others.classes.filter((words) => !words.some((word) => taken.has(foldCase(word))));
  return { ...vocabulary, background: true, backgroundClasses: kept };
}

/** The name of each label. */
function labelNames(vocabulary) {
  return [...(vocabulary.background ? [BACKGROUND] : []), ...vocabulary.classes.map((words) => words[0])];
}

/** The background's threshold for a model's head, as the runtime chooses it; null where every pixel has a class. */
function chooseThreshold(vocabulary, head, singleClass) {
  if (vocabulary.backgroundClasses.length) return 0;
  if (vocabulary.background) return head.background;
  if (vocabulary.classes.length > 1) return null;
  const lowest = 1 / (1 + Math.exp(head.scale - head.bias)); // of a cosine of -1
  return lowest < singleClass ? singleClass : head.background;
}

function foldCase(text) {
  return text.toUpperCase().toLowerCase();
}

function cleanWord(word) {
  const separator = Array.from(word).find((character) => SEPARATORS.includes(character));
  if (separator) {
    throw new UserError(
      `${quoted(word.trim())} holds ${quoted(separator)}: separate classes by ',' ` +
        "(in a file: one a line) and words for the same class by '|'",
    );
  }
  const text = visible(word.normalize("NFC"))
    .split(/[\p{White_Space}\x1c-\x1f]+/u)
    .filter((part) => part)
    .join(" ");
  const control = text.match(/\p{Cc}/u);
  if (control) throw new UserError(`${quoted(text)} holds the control character ${quoted(control[0])}; remove it`);
  if (text.length > 1 && text[0] === text.at(-1) && "'\"".includes(text[0])) {
    throw new UserError(`${text} is in quotes; remove them`);
  }
  if (text && !/[\p{L}\p{N}]/u.test(text)) {
    throw new UserError(`${quoted(text)} has no letter or digit, which the model would need; write a word`);
  }
  return text;
}

/** Drop characters without a picture; joiners stay between letters of scripts that need them. */
function visible(text) {
  const characters = Array.from(text);
  const kept = characters.filter((character, i) => {
    if (!/\p{Cf}/u.test(character)) return true;
    const around = (characters[i - 1] ?? "") + (characters[i + 1] ?? "");
    return "\u200c\u200d".includes(character) && Array.from(around).length === 2 && !/^[\x00-\x7f]*$/.test(around);
  });
  return kept.join("");
}

function makeVocabulary(given) {
  if (!given.some((words) => words.some((word) => word))) throw new UserError(`no class is given; ${EXAMPLE}`);
  const { classes, background } = takeBackground(given);
  if (!classes.length || classes.length > MAX_CLASSES) {
    throw new UserError(`got ${classes.length} classes: expected 1 to ${MAX_CLASSES}`);
  }
  checkNames(classes, background);
  const owners = new Map();
  for (const words of classes) {
    for (const word of words) {
      const owner = owners.get(foldCase(word));
      if (owner !== undefined) {
        throw new UserError(`${quoted(word)} is in class ${quoted(owner)} and again in ${quoted(words[0])}`);
      }
      owners.set(foldCase(word), words[0]);
    }
  }
  return { classes, background, backgroundClasses: [] };
}

function checkNames(classes, background) {
  const seen = new Map(background ? [[BACKGROUND, 0]] : []);
  classes.forEach((words, index) => {
    const number = index + 1;
    if (!words.every((word) => word)) throw new UserError(`class ${number} has an empty name; remove it or name it`);
    const name = foldCase(words[0]);
    if (seen.has(name)) {
      throw new UserError(
        `class ${number} has the name of class ${seen.get(name)}: ${quoted(words[0])}; rename one`,
      );
    }
    seen.set(name, number);
  });
}

/** Read a first class named background, as labelme, COCO and VOC have it; refuse it elsewhere. */
function takeBackground(given) {
  let names = given.map((words) => foldCase(words[0]));
  if (names[0] === IGNORED_NAME) {
    if (!BACKGROUND_NAMES.includes(names[1])) {
      throw new UserError(
        `the first class is ${quoted(given[0][0])}, and no '_background_' follows as in labelme's lists; leave it ` +
          "out (`ovsdino evaluate --reduce-zero-label`: label 0 means nothing)",
      );
    }
    given = given.slice(1);
    names = names.slice(1);
  }
  const background = BACKGROUND_NAMES.includes(names[0]);
  if (background && given.length === 1) {
    throw new UserError(`the only class is ${quoted(given[0][0])}, which has no words; ${EXAMPLE}`);
  }
  const first = background ? 1 : 0;
  names.slice(first).forEach((name, index) => {
    if ([...BACKGROUND_NAMES, IGNORED_NAME].includes(name)) {
      throw new UserError(
        `class ${index + 1 + first} is ${quoted(name)}: only the first can be the background; put it first, or ` +
          "leave it out",
      );
    }
  });
  return { classes: given.slice(first), background };
}
