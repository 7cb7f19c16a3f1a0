//! [`Template`]: the part of docker's `--format` that scripts use: `{{.Config.Env}}`, `{{json .Config}}`, text between.
//!
//! The rest of that language is for `jq`.

use std::str::FromStr;

use serde_json::Value;

/// What is printed of each object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Template(Vec<Part>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Text(String),
    /// The names that lead to a value, and whether it is printed as JSON whatever it is.
    Field {
        path: Vec<String>,
        as_json: bool,
    },
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "json" {
            return Ok(Self(vec![Part::Field { path: Vec::new(), as_json: true }]));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (inside, after) = after.split_once("}}").ok_or("a {{ has no }} behind it")?;
            parts.extend((!before.is_empty()).then(|| Part::Text(before.to_owned())));
            parts.push(field(inside.trim())?);
            rest = after;
        }
        parts.extend((!rest.is_empty()).then(|| Part::Text(rest.to_owned())));
        Ok(Self(parts))
    }
}

fn field(inside: &str) -> Result<Part, String> {
    let (as_json, said) = match inside.strip_prefix("json ") {
        Some(said) => (true, said.trim()),
        None => (false, inside),
    };
    let names = said.strip_prefix('.').filter(|names| !names.contains([' ', '(', '|', '"', '$']));
    let names = names.ok_or_else(|| {
        format!("{{{{{inside}}}}} is not understood, only {{{{.A.B}}}} and {{{{json .A}}}} are; jq does more, with --json")
    })?;
    Ok(Part::Field {
        path: names.split('.').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        as_json,
    })
}

impl Template {
    /// What is printed of `object`.
    ///
    /// # Errors
    ///
    /// Says which field there is none of, and which there are.
    pub(crate) fn fill(&self, object: &Value) -> Result<String, String> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Field { path, as_json } => match (lookup(object, path)?, as_json) {
                    (Value::String(plain), false) => text.push_str(plain),
                    (Value::Null, false) => {}
                    (value, _) => text.push_str(&value.to_string()),
                },
            }
        }
        Ok(text)
    }
}

fn lookup<'v>(object: &'v Value, path: &[String]) -> Result<&'v Value, String> {
    let mut at = object;
    for (depth, name) in path.iter().enumerate() {
        at = at.get(name).ok_or_else(|| {
            let fields = at.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>().join(", "));
            let fields = fields.filter(|fields| !fields.is_empty()).unwrap_or_else(|| "none".to_owned());
            format!("there is no field .{}; there are: {fields}", path[..=depth].join("."))
        })?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_template_is_text_with_fields_in_it() {
        let object =
            json!({"Id": "sha256:1", "Size": 7, "None": null, "Config": {"Env": ["A=b"], "Cmd": "x"}});
        let fill = |template: &str| template.parse::<Template>().unwrap().fill(&object);
        assert_eq!(fill("{{.Id}} is {{ .Size }}!").unwrap(), "sha256:1 is 7!");
        assert_eq!(fill("{{json .Id}}{{.None}}").unwrap(), "\"sha256:1\"");
        assert_eq!(fill("{{.Config.Env}}").unwrap(), r#"["A=b"]"#);
        assert_eq!(fill("json").unwrap(), object.to_string());
        assert_eq!(fill("{{json .}}").unwrap(), object.to_string());
        assert_eq!(fill("").unwrap(), "");
        assert_eq!(
            fill("{{.Config.Nope}}").unwrap_err(),
            "there is no field .Config.Nope; there are: Cmd, Env"
        );
        assert!(fill("{{.Id.More}}").unwrap_err().contains(".Id.More"));
        for wrong in ["{{", "{{.Id", "{{range .Config.Env}}{{.}}{{end}}", "{{index .Config 0}}", "{{Id}}"] {
            assert!(wrong.parse::<Template>().is_err(), "{wrong}");
        }
    }
}
