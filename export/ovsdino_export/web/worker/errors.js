// What the user can fix: one line on the page. Anything else is a fault of the program.

class UserError extends Error {}

/** Quote text as the runtime's messages do. */
function quoted(text) {
  return text.includes("'") && !text.includes('"') ? `"${text}"` : `'${text.replaceAll("'", "\\'")}'`;
}
