//! `elphctl directory`.

use std::io::{IsTerminal, Read};

use elph_proto::v1::{
    AuthenticateSubscriberRequest, GetSubscriberRequest, ListDomainsRequest, ListRoomsRequest, ListSubscribersRequest,
    ListSubscribersResponse,
};

use super::{Session, resolve::PAGE};
use crate::{
    cli::directory::{DirectoryCommand, Subscribers},
    failure::Failure,
    output::note,
    render,
    settings::read_small,
};

/// Longest password taken.
const PASSWORD_LIMIT: u64 = 4096;

/// A password, which never prints.
pub(crate) struct Password(String);

/// Reads the password that a command needs: the first line of the file or of the standard input.
pub(crate) fn password(command: &DirectoryCommand) -> Result<Option<Password>, Failure> {
    let DirectoryCommand::Authenticate { password_file, .. } = command else { return Ok(None) };
    let content = match password_file {
        Some(path) => read_small(path).map_err(Failure::Usage)?,
        None => {
            let stdin = std::io::stdin();
            if stdin.is_terminal() {
                return Err(Failure::Usage("pipe the password in or use --password-file: what is typed would show".into()));
            }
            let mut content = Vec::new();
            let read = stdin.lock().take(PASSWORD_LIMIT + 1).read_to_end(&mut content);
            read.map_err(|error| Failure::Local(format!("cannot read the password: {error}")))?;
            content
        }
    };
    let line = content.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|_| Failure::Usage("the password is not UTF-8".into()))?;
    if text.is_empty() || text.len() as u64 > PASSWORD_LIMIT {
        return Err(Failure::Usage("the password is empty or too long".into()));
    }
    Ok(Some(Password(text.to_owned())))
}

impl Session<'_> {
    /// Runs a command.
    pub(crate) async fn directory(&mut self, command: DirectoryCommand, password: Option<Password>) -> Result<(), Failure> {
        match command {
            DirectoryCommand::Domains => {
                let answer = self.agent.ask(self.agent.directory().list_domains(ListDomainsRequest {})).await?;
                if self.out.json {
                    return self.out.message("ListDomainsResponse", &answer);
                }
                self.out.grid(&render::directory::domains(&answer.domains, &self.out.look), "no domains")
            }
            DirectoryCommand::Subscribers(list) => self.subscribers(list).await,
            DirectoryCommand::Subscriber { alias, domain } => {
                let domain = self.domain(domain.domain.as_ref()).await?;
                let answer = self.agent.ask(self.agent.directory().get_subscriber(GetSubscriberRequest { domain, alias })).await?;
                if self.out.json {
                    return self.out.message("GetSubscriberResponse", &answer);
                }
                for line in render::directory::subscriber(&answer) {
                    self.out.line(&line)?;
                }
                self.out.line("")?;
                self.out.grid(&render::directory::registrations(&answer.registrations), "not registered")
            }
            DirectoryCommand::Rooms { domain } => {
                let domain = self.domain(domain.domain.as_ref()).await?;
                let answer = self.agent.ask(self.agent.directory().list_rooms(ListRoomsRequest { domain })).await?;
                if self.out.json {
                    return self.out.message("ListRoomsResponse", &answer);
                }
                self.out.grid(&render::directory::rooms(&answer.rooms), "no rooms")
            }
            DirectoryCommand::Authenticate { login, domain, .. } => {
                let domain = self.domain(domain.domain.as_ref()).await?;
                let password = password.map(|password| password.0).unwrap_or_default();
                let request = AuthenticateSubscriberRequest { domain: domain.clone(), login, password };
                let answer = self.agent.ask(self.agent.directory().authenticate_subscriber(request)).await?;
                if self.out.json {
                    return self.out.message("AuthenticateSubscriberResponse", &answer);
                }
                self.out.line(&format!("the password is right: {} of {domain}", render::clean(&answer.alias)))
            }
        }
    }

    async fn subscribers(&mut self, list: Subscribers) -> Result<(), Failure> {
        let domain = self.domain(list.domain.domain.as_ref()).await?;
        let limit = if list.limit == 0 { usize::MAX } else { list.limit as usize };
        let mut request = ListSubscribersRequest { domain, alias_prefix: list.prefix, ..Default::default() };
        let mut all = ListSubscribersResponse::default();
        loop {
            request.page_size = i32::try_from(limit.saturating_sub(all.subscribers.len())).unwrap_or(PAGE).min(PAGE);
            let page = self.agent.ask(self.agent.directory().list_subscribers(request.clone())).await?;
            all.subscribers.extend(page.subscribers);
            (all.next_page_token, all.total_size) = (page.next_page_token, page.total_size);
            if all.next_page_token.is_empty() || all.subscribers.len() >= limit || all.next_page_token == request.page_token {
                break;
            }
            request.page_token.clone_from(&all.next_page_token);
        }
        if !all.next_page_token.is_empty() {
            note(&format!("{} of {} subscribers shown: --limit 0 shows all", all.subscribers.len(), all.total_size));
        }
        if self.out.json {
            return self.out.message("ListSubscribersResponse", &all);
        }
        self.out.grid(&render::directory::subscribers(&all.subscribers), "no subscribers")
    }
}
