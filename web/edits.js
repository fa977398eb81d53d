/** Several edited prompts in one text box, as the nodes part them (prompt.py, split_edits). No DOM here. */

/** A line that holds only `---`. */
export const EDIT_BORDER = /(?:^|(?<=[\r\n]))[ \t]*---[ \t]*(?=[\r\n]|$)/

/** The edited prompts; none where the box is empty. */
export function splitEdits(text) {
  return text.trim() ? text.split(EDIT_BORDER).map((part) => part.trim()) : []
}
