//! SSO: an OpenID Connect provider (OpenID Connect Core 1.0, RFC 6749, 7636, 8628) laid out as Keycloak's, whose realms are the switch's
//! domains. Who somebody is, the switch, a directory or local accounts say (`people`).

pub mod people;
