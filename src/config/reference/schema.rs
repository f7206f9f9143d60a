//! A JSON Schema (draft 7) of the configuration, with which editors complete keys and check values.

use serde_json::{Map, Value, json};

use super::super::kind::{Item, Key, Kind};
use super::super::resolve::{aliases, ignored};
use super::super::yaml;
use super::items;

/// The schema.
pub fn json_schema() -> Value {
    let mut root = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Configuration of srgan",
        "type": "object",
        "required": ["Model"],
        "additionalProperties": false,
        "properties": {},
        "definitions": {
            "interpolation": {
                "type": "string",
                "pattern": "^\\$\\{.*\\}$",
                "description": "the value of another key (${Section.key}) or of the environment (${oc.env:NAME,default})"
            }
        }
    });
    for item in items() {
        match item {
            Item::Section(section) if section.path.is_empty() => {}
            Item::Section(section) => {
                let empty = json!({
                    "type": ["object", "null"],
                    "description": section.meaning,
                    "additionalProperties": false,
                    "properties": {}
                });
                insert(&mut root, &section.path, empty);
            }
            Item::Key(key) => insert(&mut root, &key.path, property(&key)),
        }
    }
    for (path, instead) in aliases() {
        insert(
            &mut root,
            path,
            json!({ "description": format!("the same as {instead}"), "deprecationMessage": format!("write {instead}") }),
        );
    }
    for (path, why) in ignored() {
        insert(&mut root, path, json!({ "description": format!("has no effect: {why}"), "deprecationMessage": why }));
    }
    root
}

/// Puts a property at a dotted path of sections.
fn insert(root: &mut Value, path: &str, property: Value) {
    let (sections, name) = path.rsplit_once('.').map_or((None, path), |(sections, name)| (Some(sections), name));
    let mut at = root;
    for section in sections.into_iter().flat_map(|sections| sections.split('.')) {
        at = &mut at["properties"][section];
    }
    if let Some(properties) = at["properties"].as_object_mut() {
        properties.insert(name.to_owned(), property);
    }
}

fn property(key: &Key) -> Value {
    let mut forms = forms(&key.kind);
    forms.iter_mut().for_each(|form| limit(form, key));
    forms.extend([json!({ "$ref": "#/definitions/interpolation" }), json!({ "type": "null" })]);
    let mut description = key.meaning.clone();
    if !key.range().is_empty() {
        description.push_str(&format!(" Range: {}.", key.range()));
    }
    let mut property = json!({ "description": description, "anyOf": forms });
    if let Some(default) = yaml::value_of(&key.default) {
        property["default"] = default;
    }
    property
}

/// The forms that values of a kind have.
fn forms(kind: &Kind) -> Vec<Value> {
    let of_type = |name: &str| vec![json!({ "type": name })];
    match kind {
        Kind::Switch => of_type("boolean"),
        Kind::Whole => of_type("integer"),
        Kind::Number => of_type("number"),
        Kind::Text => of_type("string"),
        // False means that there is none.
        Kind::Path => vec![json!({ "type": "string" }), json!({ "const": false })],
        Kind::Names(names) => {
            let main: Vec<&str> = names.iter().map(|n| n.name).collect();
            let texts: Vec<&str> = names.iter().map(|n| n.meaning.as_str()).collect();
            let aliases: Vec<&str> = names.iter().flat_map(|n| n.aliases.iter().copied()).collect();
            let mut form = json!({ "enum": main });
            if texts.iter().any(|text| !text.is_empty()) {
                form["enumDescriptions"] = json!(texts);
            }
            let mut forms = vec![form];
            forms.extend((!aliases.is_empty()).then(|| json!({ "enum": aliases })));
            forms
        }
        Kind::List(of, len) => {
            let mut form = Map::from_iter([
                ("type".to_owned(), json!("array")),
                ("items".to_owned(), json!({ "anyOf": forms(of) })),
            ]);
            if let Some(len) = len {
                form.extend([("minItems".to_owned(), json!(len)), ("maxItems".to_owned(), json!(len))]);
            }
            let single = if len.is_none() { forms(of) } else { vec![] };
            [Value::Object(form)].into_iter().chain(single).collect()
        }
        Kind::Either(kinds) => kinds.iter().flat_map(forms).collect(),
        Kind::Optional(of) => forms(of),
    }
}

/// States the range of numbers.
fn limit(form: &mut Value, key: &Key) {
    let form = match form["type"].as_str() {
        Some("integer" | "number") => form,
        Some("array") => {
            if let Some(items) = form["items"]["anyOf"].as_array_mut() {
                items.iter_mut().for_each(|item| limit(item, key));
            }
            return;
        }
        _ => return,
    };
    for bounds in &key.bounds {
        for (limit, closed, open) in
            [(bounds.min, "minimum", "exclusiveMinimum"), (bounds.max, "maximum", "exclusiveMaximum")]
        {
            if let Some((value, is_open)) = limit {
                let value = if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) };
                form[if is_open { open } else { closed }] = value;
            }
        }
    }
}
