/**
 * What the choices of the nodes' lists are called in the page's language. What is chosen, saved and queued stays the
 * English value, so that a workflow means the same in every language. No DOM here.
 */

import { t } from './texts.js'

const names = () => [
  ...[t('automatic'), t('the composition'), t('everything but the words'), t('nothing')], // what P2P Edit keeps
  ...[t('auto'), t('maps'), t('maps, renormalised'), t('queries and keys')], // how an edit takes the source's maps over
  ...[t('words'), t('words and change'), t('words and change, or everywhere')], // what a mask is made from
  ...[t('replace'), t('intersect'), t('union')], // and what it does with a painted one
  ...[t('own'), t('injected'), t('cross'), t('self'), t('overlay'), t('heat map')], // maps
  ...[t('first third'), t('middle third'), t('last third'), t('all')], // of which layers
  ...[t('whole run'), t('early, middle, late')], // and steps
  ...[t('none'), t('strength'), t('cross_end'), t('self_end'), t('scale'), t('threshold'), t('seed')], // of P2P Grid
  ...[t('soft'), t('hard'), t('scene'), t('still life')] // P2P Proximal Guidance and P2P Demo Picture
]

const VALUES = names() // while this file is loaded, all is still said in English

/** @param value of a list; null while it has none. */
export function nameOf(value) {
  const place = VALUES.indexOf(value)
  return place < 0 ? String(value ?? '') : names()[place]
}

/** Whether a list is one of these, and not of the host's samplers or of files. */
export function hasNames(values) {
  return Array.isArray(values) && values.some((value) => VALUES.includes(value))
}
