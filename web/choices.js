/**
 * What the page makes of a text with `{cat|dog}` and comments when it is queued: as its own text boxes do, but several
 * texts choose alike. No DOM here.
 */

import { EDIT_BORDER } from './edits.js'

const COMMENTS = /\/\*[\s\S]*?\*\/|\/\/.*/g
const BORDERS = new RegExp(`(${EDIT_BORDER.source})`) // kept among the parts

/** One draw of all choices: the same group of words, where it stands in several texts, gives the same word in each. */
export class Draw {
  #drawn = new Map() // group and its occurrence in a text -> the random number that it got
  #random

  constructor(random = Math.random) {
    this.#random = random
  }

  /** The text as it is sent to the server; edits, between lines `---`, each choose as the source does. */
  resolve(text) {
    const parts = text.replace(COMMENTS, '').split(BORDERS)
    return parts.map((part, i) => (i % 2 ? part : this.#part(part))).join('')
  }

  #part(part) {
    const seen = new Map()
    return resolved(part, (group, count) => {
      const occurrence = (seen.get(group) ?? 0) + 1
      seen.set(group, occurrence)
      const key = `${occurrence} ${group}`
      if (!this.#drawn.has(key)) this.#drawn.set(key, this.#random())
      return Math.floor(this.#drawn.get(key) * count)
    })
  }
}

/** Whether anything is left to chance in a text. */
export function hasChoices(text) {
  return /(^|[^\\])\{/.test(text.replace(COMMENTS, ''))
}

/** The text with the first of each choice, to show while one types. */
export function firstChoices(text) {
  return new Draw(() => 0).resolve(text)
}

function resolved(text, choose) {
  let at = 0
  let made = ''
  while (at < text.length) {
    const letter = text[at++]
    if (letter === '\\') made += letter + (text[at++] ?? '')
    else if (letter === '{') made += group()
    else made += letter
  }
  return made.replace(/\\([{}|])/g, '$1')

  function group() {
    const first = at
    const options = ['']
    let depth = 0
    while (at < text.length) {
      const letter = text[at++]
      if (letter === '\\') {
        options[options.length - 1] += letter + (text[at++] ?? '')
        continue
      }
      if (letter === '{') depth++
      else if (letter === '}' && depth-- === 0) break
      else if (letter === '|' && depth === 0) {
        options.push('')
        continue
      }
      options[options.length - 1] += letter
    }
    return resolved(options[choose(text.slice(first, at), options.length)], choose)
  }
}
