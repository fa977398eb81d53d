"""``python dev.py translations``: write locales/LANGUAGE/nodeDefs.json, from which ComfyUI's page takes its words.

English is what the nodes themselves say. Every other language has a list locales/LANGUAGE.json: each English text of
the nodes and its translation. So a text that changes loses its translation, and one text has one translation wherever
it stands. This command enters new texts into the lists, as "", takes out those that no node says any more, and
fails as long as one is left to translate.
"""

import json
import sys
from pathlib import Path

LOCALES = Path(__file__).parent
LANGUAGES = ("ko", "ja", "zh")


def english(schemas):
    """What the page shows of nodes, in the form of its nodeDefs.json: node id -> names and tooltips."""
    return {
        schema.node_id: {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": {i.id: {"name": i.display_name or i.id, "tooltip": i.tooltip} for i in schema.inputs},
            "outputs": {
                str(place): {"name": output.display_name, "tooltip": output.tooltip}
                for place, output in enumerate(schema.outputs)
            },
        }
        for schema in schemas
    }


def texts(defs):
    """Every text in ``defs``, once, in order."""
    if isinstance(defs, str):
        return [defs]
    return list(dict.fromkeys(text for part in defs.values() for text in texts(part)))


def translated(defs, translations):
    """``defs`` with every text exchanged; what has no translation is left out, and the page shows it in English."""
    if isinstance(defs, str):
        return translations.get(defs) or None
    parts = {key: translated(part, translations) for key, part in defs.items()}
    return {key: part for key, part in parts.items() if part is not None}


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8", newline="\n")


def main():
    sys.path.append(str(LOCALES.parent / "tests" / "comfy"))
    import real_host

    real_host.enter()
    defs = english(real_host.load_pack().schemas())
    write(LOCALES / "en" / "nodeDefs.json", defs)
    open_texts = 0
    for language in LANGUAGES:
        path = LOCALES / f"{language}.json"
        known = read(path) if path.is_file() else {}
        translations = {text: known.pop(text, "") for text in texts(defs)}
        write(path, translations)
        write(LOCALES / language / "nodeDefs.json", translated(defs, translations))
        for text in known:
            print(f"{language}: taken out, no node says it any more: {text!r}")
        for text in (text for text, translation in translations.items() if not translation):
            print(f"{language}: to be translated in {path}: {text!r}")
            open_texts += 1
    return 1 if open_texts else 0


if __name__ == "__main__":
    sys.exit(main())
