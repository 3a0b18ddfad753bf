// What the user can fix: one line on the page. Anything else is a fault of the program.

class UserError extends Error {}

/** Quote text as the runtime's messages do. */
function quoted(text) {
  const escaped = text.replaceAll("\\", "\\\\").replaceAll("\t", "\\t").replace(/[\x00-\x1f\x7f]/g, hexadecimal);
  return text.includes("'") && !text.includes('"') ? `"${escaped}"` : `'${escaped.replaceAll("'", "\\'")}'`;
}

function hexadecimal(character) {
  return `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`;
}
