//! What the services' OpenAPI documents share.

use std::collections::BTreeMap;

use http::StatusCode;
use utoipa::{
    IntoResponses, Modify, PartialSchema, ToSchema,
    openapi::{
        ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder, Schema,
        schema::{ObjectBuilder, SchemaType, Type},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use crate::problem::{Code, Member, Problem};

/// Every problem that any route may answer with.
#[derive(Debug)]
pub struct Problems;

/// Adds the schema of problems and the access token to a document.
#[derive(Debug)]
pub struct Common;

/// A subscriber's number, as `Check::alias` takes it.
#[derive(Debug)]
pub struct Alias;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut meanings: BTreeMap<StatusCode, Vec<&str>> = BTreeMap::new();
        for code in Code::ALL {
            meanings.entry(code.status()).or_default().push(code.meaning());
        }
        let response = |meanings: Vec<&str>| {
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
            RefOr::T(ResponseBuilder::new().description(meanings.join(" ")).content("application/problem+json", content).build())
        };
        meanings.into_iter().map(|(status, meanings)| (status.as_u16().to_string(), response(meanings))).collect()
    }
}

impl Modify for Common {
    fn modify(&self, document: &mut OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        for (name, schema) in
            [("Problem", Problem::schema()), ("Code", Code::schema()), ("Member", Member::schema()), ("Alias", Alias::schema())]
        {
            components.schemas.insert(name.to_owned(), schema);
        }
        document.security = Some(vec![SecurityRequirement::new("bearer", Vec::<String>::new())]);
    }
}

impl PartialSchema for Alias {
    fn schema() -> RefOr<Schema> {
        let object = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).pattern(Some("^[A-Za-z0-9+*#._-]{1,64}$"));
        object.description(Some("A subscriber's number.")).into()
    }
}

impl ToSchema for Alias {}
