/** The lines of the text box `alignment`, as the nodes read it: `cat -> dog`, `+ hat`, `- hat`. No DOM here. */

import { plain } from './names.js'

const LINE = /^(.+?)\s*(?:->|=>|→)\s*(.+)$/
const BORDER = '---'

/** {source, target} that a line is about, each null where it names none; null if it cannot be read. */
export function readLine(line) {
  const text = line.trim()
  const link = LINE.exec(text)
  if (link) return { source: link[1], target: link[2] }
  const name = text.slice(1).trim()
  if (text === BORDER || !name || !'+-'.includes(text[0])) return null
  return text[0] === '+' ? { source: null, target: name } : { source: name, target: null }
}

/**
 * The text with a line for a word of the source and one of the target (`cat -> dog`), or for one of them alone, which is
 * then removed or new. Lines about the same words go.
 * @param edit number of the edited prompt, from 0: where lines `---` part the text it goes into that edit's part.
 */
export function withLine(text, { source = null, target = null }, edit = 0) {
  const line = source === null ? `+ ${target}` : target === null ? `- ${source}` : `${source} -> ${target}`
  const parts = partsOf(text)
  const place = parts.length > 1 ? Math.min(edit, parts.length - 1) : 0
  parts[place] = [...without(parts[place], { source, target }), line]
  return joined(parts)
}

/** The text without the lines about a word. */
export function withoutWord(text, words, edit = 0) {
  const parts = partsOf(text)
  const place = parts.length > 1 ? Math.min(edit, parts.length - 1) : 0
  parts[place] = without(parts[place], words)
  return joined(parts)
}

/** Whether a line is about a word. */
export function isDecided(text, { source = null, target = null }, edit = 0) {
  const parts = partsOf(text)
  const lines = parts.length > 1 ? parts[edit] ?? [] : parts[0]
  return without(lines, { source, target }).length < lines.length
}

function without(lines, { source = null, target = null }) {
  return lines.filter((line) => {
    const said = readLine(line)
    const same = (a, b) => a != null && b != null && plain(a) === plain(b)
    return !said || !(same(said.source, source) || same(said.target, target))
  })
}

function partsOf(text) {
  const parts = [[]]
  for (const line of text.split('\n').map((each) => each.trim())) {
    if (line === BORDER) parts.push([])
    else if (line) parts.at(-1).push(line)
  }
  return parts
}

function joined(parts) {
  return parts.map((lines) => lines.join('\n')).join(`\n${BORDER}\n`).trim()
}
