//! What a statement names, before it is planned: the one stream and the references that it reads; and what `*` stands for in it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::execution::SessionState;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Ident, ObjectName, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, Statement, TableFactor, VisitMut, VisitorMut,
    WildcardAdditionalOptions,
};
use tapeline_api::pipeline::references::ReferenceTable;
use tapeline_api::pipeline::streams::Stream;

use super::{CheckError, Tables};
use crate::schema::{METADATA, hidden};
use crate::{did_you_mean, one_line};

/// What a query reads.
pub(super) struct Named<'a> {
    pub(super) stream: &'a Stream,
    pub(super) references: Vec<&'a ReferenceTable>,
}

/// Finds the tables that `query` names.
pub(super) fn named<'a>(state: &SessionState, query: &Query, tables: Tables<'a>) -> Result<Named<'a>, CheckError> {
    let statement = DfStatement::Statement(Box::new(Statement::Query(Box::new(query.clone()))));
    let found = state.resolve_table_references(&statement).map_err(|error| CheckError::Syntax(one_line(&error)))?;
    let names: BTreeSet<&str> = found.iter().map(datafusion::common::TableReference::table).collect();
    let (mut streams, mut references) = (Vec::new(), Vec::new());
    for name in names {
        if let Some(stream) = tables.streams.iter().find(|stream| stream.name.as_str() == name) {
            streams.push(stream);
        } else if let Some(reference) = tables.references.iter().find(|reference| reference.name.as_str() == name) {
            references.push(reference);
        } else {
            let known = tables.streams.iter().map(|stream| &stream.name).chain(tables.references.iter().map(|reference| &reference.name));
            let hint = did_you_mean(name, known.map(AsRef::as_ref));
            return Err(CheckError::NoSuchTable { name: name.to_owned(), hint });
        }
    }
    match streams.as_slice() {
        [stream] => Ok(Named { stream, references }),
        [] => Err(CheckError::NotOneStream("none".to_owned())),
        several => Err(CheckError::NotOneStream(several.iter().map(|stream| stream.name.as_str()).collect::<Vec<_>>().join(", "))),
    }
}

/// Makes `*` mean the declared fields: the columns of the message and the hidden ones are excluded wherever a SELECT reads the stream itself.
pub(super) fn hide_metadata(query: &mut Query, stream: &Stream) {
    let _ = query.visit(&mut Hide(stream.name.as_str()));
}

struct Hide<'a>(&'a str);

impl VisitorMut for Hide<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.body(&mut query.body);
        ControlFlow::Continue(())
    }
}

impl Hide<'_> {
    fn body(&self, body: &mut SetExpr) {
        match body {
            SetExpr::Select(select) => self.select(select),
            SetExpr::SetOperation { left, right, .. } => {
                self.body(left);
                self.body(right);
            }
            _ => {}
        }
    }

    fn select(&self, select: &mut Select) {
        let relations = select.from.iter().flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)));
        // Under which name the stream is known here: its alias, if it has one.
        let known_as = relations.into_iter().find_map(|relation| match relation {
            TableFactor::Table { name, alias, .. } if is_name(name, self.0) => {
                Some(alias.as_ref().map_or_else(|| self.0.to_owned(), |alias| alias.name.value.clone()))
            }
            _ => None,
        });
        let Some(known_as) = known_as else { return };
        for item in &mut select.projection {
            match item {
                SelectItem::Wildcard(options) => exclude(options),
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(of), options) if is_name(of, &known_as) => exclude(options),
                _ => {}
            }
        }
    }
}

fn is_name(name: &ObjectName, wanted: &str) -> bool {
    name.0.last().and_then(|part| part.as_ident()).is_some_and(|ident| ident.value.eq_ignore_ascii_case(wanted))
}

fn exclude(options: &mut WildcardAdditionalOptions) {
    let ours = METADATA.into_iter().chain(hidden::names()).map(|name| ObjectName::from(Ident::with_quote('"', name)));
    let mut all: Vec<ObjectName> = match options.opt_exclude.take() {
        Some(ExcludeSelectItem::Single(one)) => vec![one],
        Some(ExcludeSelectItem::Multiple(several)) => several,
        None => Vec::new(),
    };
    all.extend(ours);
    options.opt_exclude = Some(ExcludeSelectItem::Multiple(all));
}
