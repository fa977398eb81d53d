/**
 * What the page says, in its language. The code has the English text, which is also what is said where there is no
 * translation; those are in texts/LANGUAGE.json, by the English. No DOM here.
 */

let translations = {}

/** @param {Object<string, string>} table English text -> its translation; {} to speak English. */
export function setLanguage(table) {
  translations = table
}

/**
 * A text in the page's language.
 * @param english in quotes, where it is said: the tests find it there.
 * @param values for its placeholders, `{name}`.
 */
export function t(english, values = {}) {
  return (translations[english] ?? english).replace(/\{(\w+)\}/g, (place, name) => values[name] ?? place)
}
