//! `docs/config.md`.

use super::super::kind::{Item, Key};
use super::{items, names};

const HEAD: &str = "# Configuration

A run is one YAML file; every key has a default except `Model.in_bands`. `srgan config cfg.yaml` prints the file with all
defaults, `srgan config --keys [SECTION]` this page, `srgan config --schema` a JSON Schema, with which an editor completes
and checks. In VS Code, with the YAML extension:

```sh
srgan config --schema > srgan.schema.json
sed -i '1i # yaml-language-server: $schema=srgan.schema.json' cfg.yaml
```

Any key can be set on the command line by its path: `srgan-train -c cfg.yaml Training.seed=1 'Data.rgb_bands=[2,1,0]'`.
Files of opensr-srgan 0.5 are read as they are; keys with a ★ are not in opensr-srgan.

`${Section.key}` takes over the value of another key of the file, `${.key}` that of one beside it,
`${oc.env:NAME,default}` an environment variable, `${oc.select:Section.key,default}` a key that may be missing, as in
OmegaConf. Its other resolvers, and Hydra's (`${now:…}`, `defaults:`), are refused.

This page is generated: `srgan config --keys --markdown > docs/config.md`.
";

/// All keys as a page in Markdown.
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    for item in items() {
        match item {
            Item::Section(section) if section.path.is_empty() => {}
            Item::Section(section) => {
                page.push_str(&format!("\n## {}\n\n{}\n\n", section.path, section.meaning));
                page.push_str("| key | values | default | meaning |\n| --- | --- | --- | --- |\n");
            }
            Item::Key(key) => page.push_str(&row(&key)),
        }
    }
    page
}

fn row(key: &Key) -> String {
    let star = if key.is_ours { " ★" } else { "" };
    let choices = names(&key.kind).iter().map(|name| match name.meaning.as_str() {
        "" => format!("`{}`", name.name),
        meaning => format!("`{}`: {meaning}", name.name),
    });
    let choices: Vec<String> = choices.collect();
    let values = match (choices.is_empty(), key.range()) {
        (false, _) => choices.join("<br>"),
        (true, range) if range.is_empty() => key.kind.describe(),
        (true, range) => format!("{}, {range}", key.kind.describe()),
    };
    let cell = |text: &str| text.replace('|', "\\|");
    format!("| `{}`{star} | {} | `{}` | {} |\n", key.name(), cell(&values), cell(&key.default), cell(&key.meaning))
}
