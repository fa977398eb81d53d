/** The notes and titles of our templates in the page's language, as they are opened. No DOM here. */

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
