//! `elphctl push`.

mod input;
mod many;
mod watch;

use std::time::Duration;

use elph_proto::v1::{
    CancelPushRequest, Device, GetPushRequest, ListAppsRequest, ListDeviceDeliveriesRequest, ListDevicesRequest, ListDevicesResponse,
    PushClass, PushContent, PushEnvironment, PushOrder, PushProvider, PushState, PushTopic, PushUser, RegisterDeviceRequest,
    SendPushRequest, TestDeviceRequest, UnregisterDeviceRequest, push_order::Target,
};

use self::input::Whose;
pub(crate) use self::input::{Input, input};
use super::{Session, resolve::PAGE};
use crate::{
    change::Change,
    cli::push::{ContentArgs, Credentials, Devices, PushCommand, Register, SendPush, Unregister},
    failure::Failure,
    output::note,
    render::{self, Tone},
};

/// The agent gives a provider half a minute, and itself a moment.
const TEST: Duration = Duration::from_secs(40);

/// How an order is sent, its target and content aside.
fn tuned(target: Option<Target>, content: PushContent, arguments: &ContentArgs) -> Result<PushOrder, Failure> {
    let time_to_live = arguments.ttl.map(prost_types::Duration::try_from).transpose();
    Ok(PushOrder {
        target,
        content: Some(content),
        push_class: arguments.class.map(PushClass::from).unwrap_or_default().into(),
        time_to_live: time_to_live.map_err(|_| Failure::Usage("--ttl is too long".into()))?,
        collapse_key: arguments.collapse_key.clone().unwrap_or_default(),
    })
}

impl Session<'_> {
    /// Runs a command.
    pub(crate) async fn push(&mut self, command: PushCommand, input: Input) -> Result<(), Failure> {
        match command {
            PushCommand::Apps => self.apps().await,
            PushCommand::Devices(devices) => self.list_devices(devices).await,
            PushCommand::Register(register) => self.register(register, input.whose).await,
            PushCommand::Unregister(unregister) => self.unregister(unregister, input.whose).await,
            PushCommand::Send(send) => self.send_push(send, input.content).await,
            PushCommand::SendMany(many) => Box::pin(self.send_many(many, input.content)).await,
            PushCommand::Cancel { push, domain, repeat } => {
                let mut change = self.change(&repeat);
                let domain = self.changed_domain(domain.domain.as_ref(), &mut change).await?;
                self.cancel_push(push, domain, change).await
            }
            PushCommand::Test { device, call, domain, repeat } => {
                let mut change = self.change(&repeat);
                let domain = self.changed_domain(domain.domain.as_ref(), &mut change).await?;
                let device_id = self.changed_device(&domain, &device.device, &mut change).await?;
                self.test_device(domain, device_id, call, change).await
            }
            PushCommand::Log { push, domain } => {
                let domain = self.domain(domain.domain.as_ref()).await?;
                self.push_log(push, domain).await
            }
            PushCommand::Deliveries { device, domain, limit } => {
                let domain = self.domain(domain.domain.as_ref()).await?;
                let device_id = self.device_id(&domain, &device.device).await?;
                self.deliveries(domain, device_id, limit).await
            }
            PushCommand::Watch(watch) => Box::pin(self.watch_pushes(watch)).await,
        }
    }

    async fn changed_domain(&self, given: Option<&String>, change: &mut Change) -> Result<String, Failure> {
        let domain = self.domain(given).await?;
        if given.is_none() {
            change.chosen("--domain", &domain);
        }
        Ok(domain)
    }

    async fn changed_device(&self, domain: &str, given: &str, change: &mut Change) -> Result<String, Failure> {
        let id = self.device_id(domain, given).await?;
        change.resolved(given, &id);
        change.look_with(&["push", "deliveries", &id, "--domain", domain]);
        Ok(id)
    }

    async fn apps(&mut self) -> Result<(), Failure> {
        let answer = self.agent.ask(self.agent.push().list_apps(ListAppsRequest {})).await?;
        if self.out.json {
            return self.out.message("ListAppsResponse", &answer);
        }
        self.out.grid(&render::push::apps(&answer.apps, &self.out.look), "no applications")
    }

    /// Lists up to `limit` devices, page after page. The token stays if there are more.
    pub(crate) async fn page_devices(&self, mut request: ListDevicesRequest, limit: usize) -> Result<ListDevicesResponse, Failure> {
        let mut all = ListDevicesResponse::default();
        loop {
            request.page_size = i32::try_from(limit.saturating_sub(all.devices.len())).unwrap_or(PAGE).min(PAGE);
            let page = self.agent.ask(self.agent.push().list_devices(request.clone())).await?;
            all.devices.extend(page.devices);
            all.next_page_token = page.next_page_token;
            if all.next_page_token.is_empty() || all.devices.len() >= limit || all.next_page_token == request.page_token {
                return Ok(all);
            }
            request.page_token.clone_from(&all.next_page_token);
        }
    }

    async fn list_devices(&mut self, list: Devices) -> Result<(), Failure> {
        let limit = if list.limit == 0 { usize::MAX } else { list.limit as usize };
        let mut answer = ListDevicesResponse::default();
        let mut more = false;
        for domain in self.domains(list.domain.as_ref()).await? {
            let left = limit - answer.devices.len().min(limit);
            if left == 0 {
                more = true;
                break;
            }
            let request = ListDevicesRequest { domain, alias: list.alias.clone().unwrap_or_default(), ..Default::default() };
            let page = self.page_devices(request, left).await?;
            more |= !page.next_page_token.is_empty();
            answer.devices.extend(page.devices);
            answer.next_page_token = page.next_page_token;
        }
        if more {
            note(&format!("{} devices shown, there are more: --limit 0 shows all", answer.devices.len()));
        }
        if self.out.json {
            return self.out.message("ListDevicesResponse", &answer);
        }
        self.out.grid(&render::push::devices(&answer.devices, &self.out.look), "no devices")
    }

    /// Completes what was read by what the application says, and keeps secrets out of the advice.
    async fn settled(&self, credentials: &Credentials, mut whose: Whose, change: &mut Change) -> Result<Whose, Failure> {
        if let Some(secret) = &whose.secret {
            change.resolved(secret, "-");
        }
        let Some(name) = credentials.app.as_ref().filter(|_| whose.parameters.pn_provider.is_empty()) else { return Ok(whose) };
        let answer = self.agent.ask(self.agent.push().list_apps(ListAppsRequest {})).await?;
        let app = answer.apps.iter().find(|app| app.name == *name);
        let app =
            app.ok_or_else(|| Failure::NotFound(format!("no application {name} is configured; 'elphctl push apps' lists those that are")))?;
        let provider = match app.provider() {
            PushProvider::Apns => "apns",
            PushProvider::Fcm => "fcm",
            PushProvider::Webpush => return Err(Failure::Usage(format!("{name} pushes to browsers: give their --subscription"))),
            PushProvider::Unspecified => return Err(Failure::Usage(format!("{name} has an unknown provider: give --provider"))),
        };
        provider.clone_into(&mut whose.parameters.pn_provider);
        Ok(whose)
    }

    async fn register(&mut self, register: Register, whose: Whose) -> Result<(), Failure> {
        let mut change = self.change(&register.repeat);
        let domain = self.changed_domain(register.domain.domain.as_ref(), &mut change).await?;
        let whose = self.settled(&register.credentials, whose, &mut change).await?;
        change.look_with(&["push", "devices", &register.alias, "--domain", &domain]);
        let request = RegisterDeviceRequest {
            domain,
            alias: register.alias,
            app: register.credentials.app.unwrap_or_default(),
            parameters: Some(whose.parameters),
            web_keys: whose.keys,
            environment: register.environment.map(PushEnvironment::from).unwrap_or_default().into(),
            platform: register.platform,
            locale: register.locale,
            label: register.label,
            wants_calls: Some(!register.messages_only),
            wants_messages: Some(!register.calls_only),
            request_id: change.request_id().to_owned(),
        };
        let answer = self.agent.order(&change, self.agent.push().register_device(request)).await?;
        if self.out.json {
            return self.out.message("RegisterDeviceResponse", &answer);
        }
        self.show_device(answer.device.as_ref())?;
        for id in &answer.replaced_device_ids {
            self.out.toned(&format!("replaces device {}", render::clean(id)), Tone::Warn)?;
        }
        Ok(())
    }

    fn show_device(&mut self, device: Option<&Device>) -> Result<(), Failure> {
        let Some(device) = device else { return Ok(()) };
        render::push::device(device, &self.out.look).iter().try_for_each(|line| self.out.line(line))
    }

    async fn unregister(&mut self, unregister: Unregister, whose: Whose) -> Result<(), Failure> {
        let mut change = self.change(&unregister.repeat);
        let domain = self.changed_domain(unregister.domain.domain.as_ref(), &mut change).await?;
        change.look_with(&["push", "devices", "--domain", &domain]);
        let mut request =
            UnregisterDeviceRequest { domain: domain.clone(), request_id: change.request_id().to_owned(), ..Default::default() };
        if let Some(given) = &unregister.device {
            request.device_id = self.changed_device(&domain, given, &mut change).await?;
        } else {
            request.parameters = Some(self.settled(&unregister.credentials, whose, &mut change).await?.parameters);
            request.app = unregister.credentials.app.unwrap_or_default();
        }
        let answer = self.agent.order(&change, self.agent.push().unregister_device(request)).await?;
        if self.out.json {
            return self.out.message("UnregisterDeviceResponse", &answer);
        }
        match &answer.device {
            Some(device) => {
                self.out.toned("unregistered", Tone::Good)?;
                self.show_device(Some(device))
            }
            None => self.out.line("it was not registered"),
        }
    }

    async fn send_push(&mut self, send: SendPush, content: PushContent) -> Result<(), Failure> {
        let mut change = self.change(&send.repeat);
        let domain = self.changed_domain(send.domain.domain.as_ref(), &mut change).await?;
        let target = match (send.alias, send.device) {
            (Some(alias), _) => {
                change.look_with(&["push", "devices", &alias, "--domain", &domain]);
                Target::User(PushUser { alias, apps: send.app })
            }
            (None, Some(device)) => Target::DeviceId(self.changed_device(&domain, &device, &mut change).await?),
            (None, None) => {
                change.look_with(&["push", "apps"]);
                let [app] = <[String; 1]>::try_from(send.app).map_err(|_| Failure::Usage("a topic is of one --app".into()))?;
                let (topic, condition) = (send.topic.unwrap_or_default(), send.condition.unwrap_or_default());
                Target::Topic(PushTopic { app, topic, condition })
            }
        };
        let to_topic = matches!(target, Target::Topic(_));
        let order = tuned(Some(target), content, &send.content)?;
        let request = SendPushRequest { domain, order: Some(order), request_id: change.request_id().to_owned() };
        let answer = self.agent.order(&change, self.agent.push().send_push(request)).await?;
        if self.out.json {
            return self.out.message("SendPushResponse", &answer);
        }
        if to_topic {
            return answer.pushes.iter().try_for_each(|push| self.out.line(&format!("push {}", render::clean(&push.push_id))));
        }
        self.out.grid(&render::push::accepted(&answer.pushes), "no device wants it: nothing is sent")
    }

    async fn cancel_push(&mut self, push_id: String, domain: String, mut change: Change) -> Result<(), Failure> {
        change.look_with(&["push", "log", &push_id, "--domain", &domain]);
        let request = CancelPushRequest { domain, push_id, request_id: change.request_id().to_owned() };
        let answer = self.agent.order(&change, self.agent.push().cancel_push(request)).await?;
        let dropped = answer.state() == PushState::Dropped;
        if self.out.json {
            self.out.message("CancelPushResponse", &answer)?;
        } else if dropped {
            self.out.toned("taken back: it will never be sent", Tone::Good)?;
        }
        if dropped { Ok(()) } else { Err(Failure::Refused(format!("too late: it is {}", render::push::state(answer.state())))) }
    }

    async fn test_device(&mut self, domain: String, device_id: String, as_call: bool, change: Change) -> Result<(), Failure> {
        let request = TestDeviceRequest { domain, device_id, as_call, request_id: change.request_id().to_owned() };
        let patient = self.agent.patient(TEST);
        let answer = patient.order(&change, patient.push().test_device(request)).await?;
        let (line, tone) = render::push::test(&answer);
        if self.out.json {
            self.out.message("TestDeviceResponse", &answer)?;
        } else {
            self.out.toned(&line, tone)?;
            self.out.line(&render::clean(&answer.explanation))?;
            self.out.toned(&format!("push {}", render::clean(&answer.push_id)), Tone::Dim)?;
        }
        match answer.state() {
            PushState::Accepted => Ok(()),
            PushState::Failed | PushState::TokenGone | PushState::Dropped => {
                Err(Failure::Refused(format!("the push was not taken: {line}")))
            }
            PushState::Expired => Err(Failure::Unavailable(format!("the provider did not take the push: {line}"))),
            _ => Err(Failure::Unknown { cause: line, change: Box::new(change) }),
        }
    }

    async fn push_log(&mut self, push_id: String, domain: String) -> Result<(), Failure> {
        let answer = self.agent.ask(self.agent.push().get_push(GetPushRequest { domain, push_id })).await?;
        if self.out.json {
            return self.out.message("GetPushResponse", &answer);
        }
        render::push::push(&answer).iter().try_for_each(|line| self.out.line(line))?;
        self.out.line("")?;
        self.out.grid(&render::push::life(&answer.events, &self.out.look), "nothing is known of it yet")
    }

    async fn deliveries(&mut self, domain: String, device_id: String, limit: u16) -> Result<(), Failure> {
        let request = ListDeviceDeliveriesRequest { domain, device_id, page_size: limit.into() };
        let answer = self.agent.ask(self.agent.push().list_device_deliveries(request)).await?;
        if answer.events.len() >= usize::from(limit) {
            note(&format!("{limit} steps shown, there may be more"));
        }
        if self.out.json {
            return self.out.message("ListDeviceDeliveriesResponse", &answer);
        }
        self.out.grid(&render::push::deliveries(&answer.events, &self.out.look), "no pushes in the log")
    }
}
