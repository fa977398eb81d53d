/** Our templates as they are opened: their notes and titles in the page's language, and where to look at them. No DOM here. */

const NOTE = 'MarkdownNote'

/**
 * Put translations in the place of what a template of ours says, before the page makes a graph of it. Another graph, and
 * what a person has written, stay as they are: a template is known by its note.
 * @param graph what is opened, as it was saved; it is changed.
 * @param {Object<string, string>} table English text -> its translation.
 */
export function translateTemplate(graph, table) {
  const nodes = graph?.nodes ?? []
  const isNote = ({ type, widgets_values: values }) => type === NOTE && Object.hasOwn(table, values?.[0])
  if (!nodes.some(isNote)) return
  for (const node of nodes.filter(isNote)) node.widgets_values = [table[node.widgets_values[0]]]
  const named = [...nodes, ...(graph.groups ?? [])].filter(({ title }) => Object.hasOwn(table, title))
  for (const each of named) each.title = table[each.title]
}

/**
 * Where to look at a template that the page has just opened. Newer pages (1.58) make all of it fit into the window, on a
 * small screen at a zoom that hides every text; where it was saved it is as large as it has to be to be read.
 * @param graph as it was saved.
 * @param before, after the page's {scale, offset} before it opened the graph, and now.
 * @param {[number, number]} window pixels that the canvas is wide and high.
 * @returns {{scale: number, offset: [number, number]} | null} null: leave it as the page has it.
 */
export function readablePlace(graph, before, after, [width, height]) {
  const saved = graph?.extra?.ds
  const nodes = graph?.nodes ?? []
  const isThere = (place) => place.scale === after.scale && place.offset.every((at, axis) => at === after.offset[axis])
  if (!saved || isThere(before) || isThere(saved)) return null // an undo keeps the place; a person's own workflow has it back
  if (after.scale >= saved.scale) return null
  const isInSight = ({ pos, size }) =>
    [width, height].every((room, axis) => {
      const begin = (pos[axis] + saved.offset[axis]) * saved.scale
      return begin < room && begin + size[axis] * saved.scale > 0
    })
  return nodes.some(({ type }) => type?.startsWith('P2P')) && nodes.some(isInSight) ? saved : null
}
