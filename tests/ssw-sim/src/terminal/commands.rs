//! The terminal's commands: what each reads from its request and writes into its answer, and with which status.

use std::collections::BTreeMap;

use ssw_core::{CallView, ConferenceView, HistoryFilter, HistoryKind, ParticipantStatus, ParticipantView, Refusal, RefusalCause, Role};

use super::xml::Element;
use crate::{
    context::ServerContext,
    dialect::Names,
    operations::{Attributes, execute_operation, to_wire},
};

/// What a command answers.
pub(super) struct Verdict {
    pub(super) status: u16,
    pub(super) content: Vec<Element>,
    /// Whether the client gets a 206 first.
    pub(super) takes_time: bool,
}

impl Verdict {
    fn new(status: u16, content: Vec<Element>) -> Self {
        Self { status, content, takes_time: false }
    }

    fn ok(content: Element) -> Self {
        Self::new(200, vec![content])
    }
}

/// The statuses of success and error. They are not uniform; a few report errors with 200.
fn statuses(name: &str) -> (u16, u16) {
    match name {
        "sip_user_declare" | "cocon_add_user" => (201, 404),
        "cocon_del_user" => (204, 404),
        "role_add_group" | "ds_cmds_lists_declare" => (201, 200),
        _ => (200, 404),
    }
}

/// Carries out a command.
pub(super) fn run(ctx: &ServerContext, name: &str, document: &Element, confirmed: bool) -> Verdict {
    let (success, failure) = statuses(name);
    let job = Job { ctx, document };
    let result = match name {
        "alias_list" => job.alias_list(),
        "alias_profile_list" => job.alias_profile_list(),
        "sip_user_declare" => return job.sip_user_declare(confirmed),
        "get_extended_subscriber_card" => job.subscriber_card(),
        "calls_history" => job.calls_history(),
        "conference_list" => job.conference_list(),
        "tc_meetings_active_info" => job.meetings(),
        "teleconference_room_list" => job.rooms(),
        "sp_login" => return job.sp_login(),
        "check_connection" => job.check_connection(),
        "ss_package_list" => job.packages(),
        "cocon_add_user" => job.add_user(),
        "cocon_del_user" => job.named("user").map(|_| Element::default()),
        "role_add_group" => job.role_add_group(),
        "cocon_configure_info" => Ok(Element::new("locks")),
        "ds_cmds_lists_declare" => job.declare_list(),
        "node_memory_info" => job.memory(),
        other => job.operation(other),
    };
    match result {
        Ok(content) => Verdict::new(success, vec![content]),
        Err(refusal) => Verdict::new(failure, vec![job.error(&refusal)]),
    }
}

struct Job<'a> {
    ctx: &'a ServerContext,
    document: &'a Element,
}

fn refuse(cause: RefusalCause, text: &str) -> Refusal {
    Refusal::new(cause, text)
}

/// What a request says, by canonical field; nothing that is empty.
type Said<'s> = BTreeMap<&'s str, &'s str>;

fn take<'s>(names: &'s Names, element: &'s Element, said: &mut Said<'s>) {
    let value = |(field, attribute): (&'s String, &'s String)| Some((field.as_str(), element.get(attribute)?));
    said.extend(names.iter().filter_map(value).filter(|(_, value)| !value.is_empty()));
}

fn record(element: &str, names: &Names, fields: &[(&str, String)]) -> Element {
    Element { name: element.to_owned(), attributes: to_wire(names, fields).into_iter().collect(), ..Element::default() }
}

impl Job<'_> {
    fn error(&self, refusal: &Refusal) -> Element {
        let word = self.ctx.dialect.refusal(refusal.cause);
        Element::new("error").with(self.ctx.dialect.terminal.error_cause.as_str(), word).with("description", refusal.text.as_str())
    }

    /// What a request says whose form is not documented: read by the dialect's names and in their places only.
    fn said(&self, command: &str) -> Said<'_> {
        let mut said = Said::new();
        let Some(shape) = self.ctx.dialect.terminal.requests.get(command) else { return said };
        let Some(request) = self.document.children.iter().find(|child| child.name == shape.element) else { return said };
        take(&shape.fields, request, &mut said);
        if let Some(child) = &shape.child
            && let Some(inside) = request.children.iter().find(|inside| inside.name == child.element)
        {
            take(&child.fields, inside, &mut said);
        }
        said
    }

    /// The domain of such a request.
    fn domain_of<'s>(&self, said: &Said<'s>) -> Result<&'s str, Refusal> {
        let domain = said.get("domain").copied().unwrap_or_default();
        if self.ctx.switch.has_domain(domain) { Ok(domain) } else { Err(refuse(RefusalCause::NoSuchSubscriber, "there is no such domain")) }
    }

    /// The domain of the request: `<domain name=…/>`, or an attribute `domain`.
    fn domain(&self) -> Result<&str, Refusal> {
        let named = self.document.find("domain").and_then(|domain| domain.get("name"));
        let domain = named.or_else(|| self.document.any(&["domain"])).unwrap_or_default();
        if self.ctx.switch.has_domain(domain) { Ok(domain) } else { Err(refuse(RefusalCause::NoSuchSubscriber, "there is no such domain")) }
    }

    /// The `name` of the first element called `element`.
    fn named(&self, element: &str) -> Result<&str, Refusal> {
        let found = self.document.find(element).and_then(|element| element.get("name")).filter(|name| !name.is_empty());
        found.ok_or_else(|| refuse(RefusalCause::NoSuchSubscriber, &format!("the request names no {element}")))
    }

    fn alias_list(&self) -> Result<Element, Refusal> {
        let domain = self.domain()?;
        let shape = &self.ctx.dialect.terminal.aliases;
        let alias = |address: &str| {
            let fields = [
                ("domain", domain.to_owned()),
                ("address", address.to_owned()),
                ("interface", format!("{address}@{domain}")),
                ("interface_type", "sip_user".to_owned()),
            ];
            record(&shape.element, &shape.fields, &fields)
        };
        let list = Element::new("aliases");
        match self.document.any(&["addr"]).filter(|address| !address.is_empty()) {
            Some(address) => {
                self.ctx.switch.subscriber(domain, address)?;
                Ok(list.holding(alias(address)))
            }
            None => Ok(list.holding_all(self.ctx.switch.aliases(domain, 0, usize::MAX)?.iter().map(|address| alias(address)))),
        }
    }

    fn alias_profile_list(&self) -> Result<Element, Refusal> {
        let domain = self.domain_of(&self.said("alias_profile_list"))?;
        let profile = |name: &str, description: &str, kind: &str| {
            let property =
                |name: &str, value: &str| Element::new("property").with("name", name).with("type", "profile").with("value", value);
            let properties = Element::new("properties").holding(property("terminal", kind)).holding(property("private", "false"));
            Element::new("profile").with("domain", domain).with("name", name).with("description", description).holding(properties)
        };
        Ok(Element::new("profiles").holding(profile("ordinary", "desk phones", "plain")).holding(profile(
            "smart",
            "users of apps",
            "smart",
        )))
    }

    fn sip_user_declare(&self, confirmed: bool) -> Verdict {
        let declared = || -> Result<Element, Refusal> {
            let said = self.said("sip_user_declare");
            let domain = self.domain_of(&said)?;
            let address = said.get("address").copied().unwrap_or_default();
            self.ctx.switch.declare_alias(domain, address, confirmed)?;
            let interface = said.get("interface").map_or_else(|| format!("{address}@{domain}"), |interface| (*interface).to_owned());
            Ok(Element::new("alias")
                .with("domain", domain)
                .with("interface", interface)
                .with("address", address)
                .with("active", self.ctx.dialect.boolean(true)))
        };
        match declared() {
            Ok(alias) => Verdict { takes_time: true, ..Verdict::new(201, vec![alias]) },
            Err(refusal) if refusal.cause == RefusalCause::AlreadyExists => {
                Verdict::new(300, vec![Element::new("question").with("text", format!("{}, replace it?", refusal.text))])
            }
            Err(refusal) => {
                let warning = Element::new("warning").with("cause", self.ctx.dialect.refusal(refusal.cause));
                Verdict::new(404, vec![self.error(&refusal).holding(warning)])
            }
        }
    }

    fn subscriber_card(&self) -> Result<Element, Refusal> {
        let (switch, dialect, now) = (&self.ctx.switch, &self.ctx.dialect, self.ctx.switch.now());
        let said = self.said("get_extended_subscriber_card");
        let domain = self.domain_of(&said)?;
        let alias = said.get("address").copied().unwrap_or_default();
        let subscriber = switch.subscriber(domain, alias)?;
        let registrations = subscriber.registrations.iter().map(|registration| {
            Element::new("registration")
                .with("access_point", registration.access_point.as_str())
                .with("reregister_date", dialect.terminal_time(registration.reregistered_at))
                .with("ttl", registration.ttl.to_string())
                .with("expires", dialect.terminal_time(registration.expires_at))
                .with("uri", registration.uri.as_str())
                .with("first_via_host", registration.first_via_host.as_str())
        });
        let mut calls = Vec::new();
        for leg in switch.device_legs(domain, alias)? {
            if let Ok(call) = switch.call(domain, &leg.call) {
                let entry = Element::new("call").with("from", call.calling.as_str()).with("to", call.called.as_str());
                calls.push(entry.with("duration", call.talk_seconds(now).to_string()));
            }
        }
        let regime = Element::new("regime")
            .with("name", subscriber.regime.name.as_str())
            .with("private_in", dialect.boolean(subscriber.regime.private_in))
            .with("private_out", dialect.boolean(subscriber.regime.private_out));
        Ok(Element::new("card")
            .with("domain", domain)
            .with("address", alias)
            .with("name", subscriber.name.as_str())
            .holding(Element::new("registrations").holding_all(registrations))
            .holding(Element::new("active_calls").holding_all(calls))
            .holding(regime))
    }

    fn calls_history(&self) -> Result<Element, Refusal> {
        let said = self.said("calls_history");
        let domain = self.domain_of(&said)?;
        let text = |field: &str| said.get(field).copied();
        let bad = |what: &str| refuse(RefusalCause::BadState, &format!("{what} cannot be understood"));
        let kind = match text("kind") {
            Some("active") => HistoryKind::Active,
            Some("history") => HistoryKind::Finished,
            Some("all") | None => HistoryKind::All,
            Some(_) => return Err(bad("the type")),
        };
        let time =
            |field: &str| text(field).map(|text| self.ctx.dialect.parse_terminal_time(text).ok_or_else(|| bad("a time"))).transpose();
        let address = text("address").unwrap_or_default();
        let addresses: Vec<String> = address.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let fits = |part: &String| {
            let core = part.trim_start_matches('%').trim_end_matches('%');
            core.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'A'..=b'D' | b'*' | b'#'))
        };
        if !addresses.iter().all(fits) {
            return Err(bad("an address pattern"));
        }
        let limit = text("limit").map(|text| text.parse().map_err(|_| bad("the limit"))).transpose()?.unwrap_or(0);
        let filter = HistoryFilter { kind, limit, from: time("from")?, to: time("to")?, addresses };
        let calls = self.ctx.switch.history(domain, &filter)?;
        Ok(Element::new("calls").holding_all(calls.iter().map(|call| self.call(call))))
    }

    fn call(&self, call: &CallView) -> Element {
        let dialect = &self.ctx.dialect;
        let time = |at: Option<_>| at.map_or_else(String::new, |at| dialect.terminal_time(at));
        let shape = &dialect.terminal.calls;
        let fields = [
            ("id", call.id.clone()),
            ("from", call.calling.clone()),
            ("to", call.called.clone()),
            ("answered_by", call.answered_by.clone().unwrap_or_default()),
            ("start", time(Some(call.started_at))),
            ("answer", time(call.answered_at)),
            ("end", time(call.ended_at)),
            ("duration", call.talk_seconds(self.ctx.switch.now()).to_string()),
            ("cause", call.cause.map_or_else(String::new, |cause| dialect.word("cause", cause.word()).to_owned())),
        ];
        record(&shape.element, &shape.fields, &fields)
    }

    fn conference_list(&self) -> Result<Element, Refusal> {
        let domain = self.domain_of(&self.said("conference_list"))?;
        let conferences = self.ctx.switch.conferences(Some(domain));
        Ok(Element::new("conferences").holding_all(conferences.iter().map(|conference| self.conference(conference))))
    }

    fn conference(&self, conference: &ConferenceView) -> Element {
        let dialect = &self.ctx.dialect;
        let shape = &dialect.terminal.conferences;
        let fields = [
            ("id", conference.id.clone()),
            ("name", conference.name.clone()),
            ("description", conference.description.clone()),
            ("room", conference.room.clone()),
            ("start", dialect.terminal_time(conference.started_at)),
            ("ends_at", conference.ends_at.map_or_else(String::new, |at| dialect.terminal_time(at))),
            ("limit", conference.limit.to_string()),
            ("count", conference.members.len().to_string()),
            ("locked", dialect.boolean(conference.locked).to_owned()),
            ("recording", dialect.word("recording", conference.recording.word()).to_owned()),
            ("may_unmute", dialect.boolean(conference.may_unmute).to_owned()),
        ];
        let participants = conference.members.iter().map(|member| Element::new("participant").with("address", member.number.as_str()));
        record(&shape.element, &shape.fields, &fields)
            .with("destroy_mode", if conference.ends_when_empty { "when_empty" } else { "by_command" })
            .holding(Element::new("participants").holding_all(participants))
    }

    fn meetings(&self) -> Result<Element, Refusal> {
        let domain = self.domain()?;
        let shape = &self.ctx.dialect.terminal.meetings;
        let meeting = |conference: &ConferenceView| {
            let fields =
                [("id", conference.id.clone()), ("name", conference.name.clone()), ("description", conference.description.clone())];
            record(&shape.element, &shape.fields, &fields).holding_all(conference.members.iter().map(|member| self.member(member)))
        };
        let meetings = match self.document.any(&["meeting"]).filter(|meeting| !meeting.is_empty()) {
            Some(id) => vec![meeting(&self.ctx.switch.conference(domain, id)?)],
            None => self.ctx.switch.conferences(Some(domain)).iter().map(meeting).collect(),
        };
        Ok(Element::new("meetings").holding_all(meetings))
    }

    fn member(&self, member: &ParticipantView) -> Element {
        let dialect = &self.ctx.dialect;
        let boolean = |value: bool| dialect.boolean(value).to_owned();
        let shape = &dialect.terminal.members;
        let fields = [
            ("id", member.id.clone()),
            ("number", member.number.clone()),
            ("name", member.name.clone()),
            ("voice", boolean(member.voice)),
            ("state", dialect.word("participant_status", member.status.word()).to_owned()),
            ("master", boolean(member.role == Role::Presenter)),
            ("hold", boolean(member.status == ParticipantStatus::OnHold)),
            ("floor", boolean(member.floor)),
            ("talking", boolean(member.talking)),
        ];
        record(&shape.element, &shape.fields, &fields)
    }

    fn rooms(&self) -> Result<Element, Refusal> {
        let rooms = self.ctx.switch.rooms(self.domain()?)?;
        let room =
            |room: &ssw_core::Room| Element::new("room").with("name", room.name.as_str()).with("description", room.description.as_str());
        Ok(Element::new("result").holding_all(rooms.iter().map(room)))
    }

    /// A wrong password and an unknown subscriber differ here, as they may on a real switch; what the world sees is the agent's task.
    fn sp_login(&self) -> Verdict {
        let text = |name: &str| self.document.any(&[name]).unwrap_or_default();
        let (domain, login) = (text("domain"), text("login"));
        let refused = |description: &str| {
            let error = Element::new("error").with("description", description);
            Verdict::new(404, vec![Element::new("response").holding(error)])
        };
        if self.ctx.switch.subscriber(domain, login).is_err() {
            return refused("no such subscriber");
        }
        if !self.ctx.switch.check_password(domain, login, text("password")) {
            return refused("wrong password");
        }
        let ok = Element::new("ok")
            .with("session", format!("{:016x}", rand::random::<u64>()))
            .with("alias_address", login)
            .with("alias_iface", format!("{login}@{domain}"));
        Verdict::ok(Element::new("response").holding(ok))
    }

    fn check_connection(&self) -> Result<Element, Refusal> {
        if self.document.any(&["domain"]).is_some() {
            self.domain()?;
        }
        Ok(Element::new("success"))
    }

    fn packages(&self) -> Result<Element, Refusal> {
        let domain = self.domain_of(&self.said("ss_package_list"))?;
        let now = self.ctx.dialect.terminal_time(self.ctx.switch.now());
        let boolean = |value| self.ctx.dialect.boolean(value);
        let info = |alias: &String| {
            let package = Element::new("package_info")
                .with("package_name", "elph")
                .with("allocate_time", now.as_str())
                .with("is_active", boolean(true))
                .with("is_priority", boolean(false))
                .with("description", "unified communications")
                .with("ss_list", "hold,ctr,3way,conference");
            Element::new("alias_info").with("address", alias.as_str()).holding(package)
        };
        let aliases = self.ctx.switch.aliases(domain, 0, 1000)?;
        Ok(Element::new("result").holding_all(aliases.iter().map(info)))
    }

    fn add_user(&self) -> Result<Element, Refusal> {
        let name = self.named("user").or_else(|_| self.named("request"))?;
        let ok = Element::new("user").with("name", name);
        let password = self.document.any(&["password"]).unwrap_or_default();
        Ok(if password.len() < 8 { ok.holding(Element::new("warning").with("cause", "weak_password")) } else { ok })
    }

    fn role_add_group(&self) -> Result<Element, Refusal> {
        let role = self.named("role")?;
        let group = self.named("group")?;
        if group == "locked" {
            return Err(refuse(RefusalCause::ObjectLocked, "another session holds the roles"));
        }
        Ok(Element::new("role").with("name", role).holding(Element::new("group").with("name", group)))
    }

    fn declare_list(&self) -> Result<Element, Refusal> {
        let domain = self.domain()?;
        let list = self.named("list")?;
        Ok(Element::new("list").with("domain", domain).with("name", list))
    }

    fn memory(&self) -> Result<Element, Refusal> {
        let node = self.named("node")?;
        let memory = |name: &str, value: &str| Element::new("memory").with("name", name).with("value", value);
        let all = [memory("total", "104857600"), memory("processes", "52428800"), memory("ets", "8388608")];
        Ok(Element::new("node").with("name", node).holding_all(all))
    }

    /// A command that only the dialect knows.
    fn operation(&self, name: &str) -> Result<Element, Refusal> {
        let unknown = || refuse(RefusalCause::NotSupported, "there is no such command");
        let (key, _) = self.ctx.dialect.operation("terminal", name).ok_or_else(unknown)?;
        let request = self.document.find("request").ok_or_else(|| refuse(RefusalCause::BadState, "there is no request"))?;
        let attributes: Attributes = request.attributes.iter().cloned().collect::<BTreeMap<_, _>>();
        let reply = execute_operation(&self.ctx.switch, &self.ctx.dialect, "", key, &attributes)?;
        let element = |name: &str, attributes: Attributes| Element {
            name: name.to_owned(),
            attributes: attributes.into_iter().collect(),
            ..Element::default()
        };
        let response = Element::new("response");
        Ok(match reply.record {
            Some(record) => response.holding_all(reply.records.into_iter().map(|attributes| element(&record, attributes))),
            None => response.holding(element("ok", reply.fields)),
        })
    }
}
