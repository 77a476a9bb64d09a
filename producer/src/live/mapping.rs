//! From a JSON document to messages: which elements it has, which of them count, and what is taken from each. Pure.

use serde_json::value::RawValue;
use tapeline_api::pipeline::live::{Condition, JsonPointer, Mapping as Wish};

use super::json::{Node, is_number, text};

/// A path into a document.
pub type Steps = Vec<String>;

/// A mapping, made ready for use. Where there are several paths, the first that leads somewhere is taken.
#[derive(Debug, Clone, Default)]
pub struct Mapping {
    pub(super) frames: Option<Check>,
    /// None: the document itself.
    pub(super) elements: Vec<Steps>,
    pub(super) elements_where: Option<Check>,
    /// None: the element as it is.
    pub(super) fields: Vec<Field>,
    pub(super) key: Vec<Steps>,
    /// All of them together, if all are there.
    pub(super) id: Vec<Steps>,
}

/// A value that must be one of some.
#[derive(Debug, Clone)]
pub struct Check {
    pub(super) at: Steps,
    pub(super) one_of: Vec<String>,
}

/// A field of a message.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its name with quotes and colon.
    label: String,
    from: Vec<Steps>,
    unquote: bool,
}

/// What becomes one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The message's key.
    pub key: Option<String>,
    /// What tells it from others of the same key.
    pub id: Option<String>,
    /// The message.
    pub payload: String,
}

/// What a document came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapped {
    /// What is to be sent, in its order.
    pub elements: Vec<Element>,
    /// How many frames and elements mean nothing to the mapping.
    pub unknown: u64,
}

impl Mapping {
    /// The mapping that a user wrote.
    #[must_use]
    pub fn new(wish: &Wish) -> Self {
        let one = |pointer: &Option<JsonPointer>| pointer.iter().map(steps).collect();
        Self {
            frames: wish.frames.as_ref().map(Check::new),
            elements: one(&wish.elements),
            elements_where: wish.elements_where.as_ref().map(Check::new),
            fields: wish.fields.iter().map(|field| Field { unquote: field.unquote, ..Field::new(&field.name, &[field.pointer.as_str()]) }).collect(),
            key: one(&wish.key),
            id: wish.id.iter().map(|id| steps(&id.pointer)).collect(),
        }
    }

    /// What `document` comes to.
    #[must_use]
    pub fn map(&self, document: &Node<'_>) -> Mapped {
        if self.frames.as_ref().is_some_and(|check| !check.holds(document)) {
            return Mapped { elements: Vec::new(), unknown: 1 };
        }
        let found = if self.elements.is_empty() { Some(document.raw()) } else { first(document, &self.elements) };
        match found.map(Node::of) {
            None => Mapped { elements: Vec::new(), unknown: 1 },
            // How many a server writes that has no elements.
            Some(found) if found.raw().get() == "null" => Mapped::default(),
            Some(found) => match found.items() {
                Some(items) => self.elements(items.iter().copied()),
                None => self.elements([found.raw()]),
            },
        }
    }

    /// What elements come to.
    #[must_use]
    pub fn elements<'a>(&self, elements: impl IntoIterator<Item = &'a RawValue>) -> Mapped {
        let mut mapped = Mapped::default();
        for element in elements.into_iter().map(Node::of) {
            if self.elements_where.as_ref().is_some_and(|check| !check.holds(&element)) {
                mapped.unknown += 1;
            } else {
                mapped.elements.push(self.element(&element));
            }
        }
        mapped
    }

    fn element(&self, element: &Node<'_>) -> Element {
        let id: Vec<String> = self.id.iter().map_while(|steps| Some(text(element.find(steps)?)?.into_owned())).collect();
        Element {
            key: first(element, &self.key).and_then(|value| Some(text(value)?.into_owned())),
            id: (!id.is_empty() && id.len() == self.id.len()).then(|| id.join("/")),
            payload: if self.fields.is_empty() { element.raw().get().to_owned() } else { self.object(element) },
        }
    }

    fn object(&self, element: &Node<'_>) -> String {
        let mut object = String::with_capacity(160);
        for field in &self.fields {
            object.push(if object.is_empty() { '{' } else { ',' });
            object.push_str(&field.label);
            match first(element, &field.from) {
                None => object.push_str("null"),
                Some(value) => match text(value).filter(|inner| field.unquote && is_number(inner)) {
                    Some(number) => object.push_str(&number),
                    None => object.push_str(value.get()),
                },
            }
        }
        object.push('}');
        object
    }
}

impl Field {
    /// A field whose value is where the first of the pointers leads somewhere.
    pub(super) fn new(name: &str, from: &[&str]) -> Self {
        let from = from.iter().map(|pointer| pointer.parse().map(|pointer| steps(&pointer)).unwrap_or_default()).collect();
        Self { label: format!("{}:", serde_json::Value::from(name)), from, unquote: false }
    }

    /// The same, for numbers that the feed writes as texts.
    pub(super) fn unquoted(self) -> Self {
        Self { unquote: true, ..self }
    }
}

impl Check {
    fn new(condition: &Condition) -> Self {
        Self { at: steps(&condition.pointer), one_of: vec![condition.equals.clone()] }
    }

    fn holds(&self, node: &Node<'_>) -> bool {
        node.find(&self.at).and_then(text).is_some_and(|value| self.one_of.iter().any(|one| *one == value))
    }
}

fn steps(pointer: &JsonPointer) -> Steps {
    pointer.steps().collect()
}

fn first<'a>(node: &Node<'a>, paths: &[Steps]) -> Option<&'a RawValue> {
    paths.iter().find_map(|steps| node.find(steps))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(wish: serde_json::Value, document: &str) -> Mapped {
        Mapping::new(&serde_json::from_value(wish).unwrap()).map(&Node::parse(document).unwrap())
    }

    fn payloads(mapped: &Mapped) -> Vec<&str> {
        mapped.elements.iter().map(|element| element.payload.as_str()).collect()
    }

    #[test]
    fn fields_are_taken_as_they_are_written() {
        let wish = json!({
            "where": {"pointer": "/type", "equals": "trade"}, "elements": "/data", "key": "/s", "id": {"pointer": "/i"},
            "fields": [{"name": "symbol", "pointer": "/s"}, {"name": "price", "pointer": "/p"}, {"name": "volume", "pointer": "/v", "unquote": true}, {"name": "c", "pointer": "/c/0"}],
        });
        let frame = r#"{"type":"trade","data":[{"s":"A\"B","p":7296.890000000000000001,"v":"0.0100","i":5},{"s":"C","p":1e-7,"v":"none","c":[1]}]}"#;
        let mapped = map(wish.clone(), frame);
        assert_eq!(
            payloads(&mapped),
            [r#"{"symbol":"A\"B","price":7296.890000000000000001,"volume":0.0100,"c":null}"#, r#"{"symbol":"C","price":1e-7,"volume":"none","c":1}"#]
        );
        let keys: Vec<_> = mapped.elements.iter().map(|element| (element.key.as_deref(), element.id.as_deref())).collect();
        assert_eq!((keys, mapped.unknown), (vec![(Some("A\"B"), Some("5")), (Some("C"), None)], 0));
        assert_eq!(map(wish.clone(), r#"{"type":"news","data":[]}"#), Mapped { elements: vec![], unknown: 1 });
        assert_eq!(map(wish, r#"{"type":"trade"}"#), Mapped { elements: vec![], unknown: 1 });
    }

    #[test]
    fn without_fields_an_element_is_sent_as_it_is() {
        let mapped = map(json!({"key": "/login/uuid", "elements": "/results"}), r#"{"results": [ {"login": {"uuid": "u1"}, "age": 3.0} ]}"#);
        assert_eq!((payloads(&mapped), mapped.elements[0].key.as_deref()), (vec![r#"{"login": {"uuid": "u1"}, "age": 3.0}"#], Some("u1")));
    }

    #[test]
    fn a_document_is_its_own_element_and_an_array_several() {
        assert_eq!(payloads(&map(json!({}), r#"{"a":1}"#)), [r#"{"a":1}"#]);
        let wish = json!({"elementsWhere": {"pointer": "/ok", "equals": "true"}});
        let mapped = map(wish, r#"[{"ok":true,"n":1},{"ok":false},{"n":2},{"ok":"true"}]"#);
        assert_eq!((payloads(&mapped), mapped.unknown), (vec![r#"{"ok":true,"n":1}"#, r#"{"ok":"true"}"#], 2));
        assert_eq!(map(json!({}), "[]"), Mapped::default());
    }

    #[test]
    fn null_in_place_of_a_list_has_no_elements() {
        assert_eq!(map(json!({"elements": "/results"}), r#"{"results":null}"#), Mapped::default());
        assert_eq!(map(json!({}), "null"), Mapped::default());
    }
}
