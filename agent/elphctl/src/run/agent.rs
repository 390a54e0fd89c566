//! `elphctl links`, `info` and `health`.

use elph_proto::v1::{GetAgentRequest, ListLinksRequest};
use serde_json::json;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use super::Session;
use crate::{
    failure::Failure,
    render::{self, Tone},
};

impl Session<'_> {
    /// The links to the switch.
    pub(crate) async fn links(&mut self) -> Result<(), Failure> {
        let answer = self.agent.ask(self.agent.agent().list_links(ListLinksRequest {})).await?;
        if self.out.json {
            return self.out.message("ListLinksResponse", &answer);
        }
        self.out.grid(&render::directory::links(&answer.links, &self.out.look), "no links")
    }

    /// The agent.
    pub(crate) async fn info(&mut self) -> Result<(), Failure> {
        let answer = self.agent.ask(self.agent.agent().get_agent(GetAgentRequest {})).await?;
        if self.out.json {
            return self.out.message("GetAgentResponse", &answer);
        }
        for line in render::directory::agent(&answer, &self.out.look) {
            self.out.line(&line)?;
        }
        Ok(())
    }

    /// Whether it serves.
    pub(crate) async fn health(&mut self, service: String) -> Result<(), Failure> {
        let request = HealthCheckRequest { service: service.clone() };
        let answer = self.agent.ask(self.agent.health().check(request)).await?;
        let serving = answer.status() == ServingStatus::Serving;
        let word = answer.status().as_str_name();
        if self.out.json {
            self.out.line(&json!({ "service": service, "status": word }).to_string())?;
        } else if serving {
            self.out.toned("serving", Tone::Good)?;
        }
        if serving { Ok(()) } else { Err(Failure::Unavailable(format!("{} answers {word}", self.agent.target()))) }
    }
}
