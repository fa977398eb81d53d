/** Word windows as text, as the nodes read it: lines `word: end` or `word: start-end`, fractions of the steps. */

import { plain } from './names.js'

const LINE = /^(.*\S)\s*:\s*(?:(\d+\.?\d*|\.\d+)\s*-\s*)?(\d+\.?\d*|\.\d+)$/

/** {name, start, end} of each line that can be read, in order. */
export function readWindows(text) {
  return text.split('\n').map(readLine).filter(Boolean)
}

/** The lines that the node will refuse. */
export function unreadable(text) {
  return text.split('\n').map((line) => line.trim()).filter((line) => line && !readLine(line))
}

function readLine(line) {
  const match = LINE.exec(line.trim())
  if (!match) return null
  const [start, end] = [Number(match[2] ?? 0), Number(match[3])]
  return start <= end && end <= 1 ? { name: match[1], start, end } : null
}

/** The text with this window for a word: in the place of the word's line, or in a new one. */
export function setWindow(text, name, start, end) {
  const line = `${name}: ${start > 0 ? `${number(start)}-` : ''}${number(end)}`
  const lines = text.split('\n')
  const place = lines.findLastIndex((each) => isFor(each, name)) // the last one counts
  if (place < 0) return [...lines.filter((each) => each.trim()), line].join('\n')
  lines[place] = line
  return lines.join('\n')
}

/** The text without a word's lines. */
export function removeWindow(text, name) {
  return text.split('\n').filter((line) => !isFor(line, name)).join('\n')
}

function isFor(line, name) {
  const window = readLine(line)
  return window !== null && plain(window.name) === plain(name)
}

/** At most two decimals. */
export function number(value) {
  return String(Number(value.toFixed(2)))
}

/**
 * A window with one of its ends moved; the other end stays, and stops it.
 * @param {'start' | 'end'} side
 */
export function moveEnd({ start, end }, side, to) {
  const value = Math.round(Math.min(1, Math.max(0, to)) * 100) / 100
  return side === 'start' ? { start: Math.min(value, end), end } : { start, end: Math.max(value, start) }
}
