//! `ferry setup`: what is said, asked and shown. What is done is in [`crate::cloudflare`].

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use super::change::{ChangeError, ConfigArg, shown};
use super::{output, urls};
use crate::cloudflare::actual::{self, Actual, PERMISSIONS, ReadError, Scope};
use crate::cloudflare::apply::{self, ApplyError};
use crate::cloudflare::client::{ApiError, BASE_URL, Client, Patience};
use crate::cloudflare::clients::{self, UnknownClient};
use crate::cloudflare::credentials;
use crate::cloudflare::desired::{Desired, Login};
use crate::cloudflare::plan::{self, Kind, Plan, Verb};
use crate::cloudflare::state::State;
use crate::config::edit;
use crate::config::load::{Config, ConfigError};
use crate::config::schema::Cloudflare;
use crate::env;
use crate::error::{Advise, Exit};
use crate::paths;
use crate::secret::Secret;

/// Access to the account; `setup` and `teardown` have it in common.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Account {
    #[command(flatten)]
    pub(super) config: ConfigArg,

    /// The API token, which others on this machine can see; better `CLOUDFLARE_API_TOKEN` or `--token-file`.
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    token: Option<Hidden>,

    /// A file with the API token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Show what would be done, and do nothing.
    #[arg(long)]
    pub(super) plan: bool,

    /// Do it without asking.
    #[arg(long, short)]
    pub(super) yes: bool,

    /// Print the plan and the outcome as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// A secret on the command line.
#[derive(Debug, Clone)]
struct Hidden(Secret);

impl From<String> for Hidden {
    fn from(text: String) -> Self {
        Self(Secret::new(text.trim()))
    }
}

/// What the token needs; [`PERMISSIONS`] in the form of a help text.
const HELP: &str = "The API token (https://dash.cloudflare.com/profile/api-tokens) needs these permissions:
  Account -> Cloudflare Tunnel -> Edit
  Account -> Access: Apps and Policies -> Edit
  Account -> Access: Organizations, Identity Providers, and Groups -> Edit
  Zone -> DNS -> Edit
  Zone -> Zone -> Read (not with --zone-id and --account-id)";

/// Arguments of `ferry setup`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Setup {
    #[command(flatten)]
    account: Account,

    /// Who may log in; several with commas, or by repeating this. The allow-list becomes exactly these.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    email: Vec<String>,

    /// The account, instead of `CLOUDFLARE_ACCOUNT_ID`.
    #[arg(long, value_name = "ID")]
    account_id: Option<String>,

    /// The zone of the hostname, instead of `CLOUDFLARE_ZONE_ID`.
    #[arg(long, value_name = "ID")]
    zone_id: Option<String>,

    /// The team domain, where the token may not read it.
    #[arg(long, value_name = "NAME")]
    team_domain: Option<String>,

    /// How people log in: `otp` (a code by mail), `google`, or the name of a provider that exists.
    #[arg(long, value_name = "PROVIDER")]
    identity_provider: Option<String>,

    /// The client id of a Google project, instead of `GOOGLE_CLIENT_ID`.
    #[arg(long, value_name = "ID")]
    google_client_id: Option<String>,

    /// Its secret, which others on this machine can see; better `GOOGLE_CLIENT_SECRET` or the file below.
    #[arg(long, value_name = "SECRET", conflicts_with = "google_client_secret_file")]
    google_client_secret: Option<Hidden>,

    /// A file with that secret.
    #[arg(long, value_name = "FILE")]
    google_client_secret_file: Option<PathBuf>,

    /// Let this client in too, though its entry rests on one report.
    #[arg(long = "client", value_name = "NAME")]
    clients: Vec<String>,

    /// Allow just these addresses for sending clients back to, instead of the built-in ones.
    #[arg(long, value_name = "URI")]
    allowed_redirect_uri: Vec<String>,

    /// Replace a DNS record or application that is in the way at the hostname.
    #[arg(long)]
    force: bool,

    /// Remove what an earlier hostname left at Cloudflare.
    #[arg(long)]
    remove_previous: bool,
}

/// Why `setup` or `teardown` did not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetupError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error(transparent)]
    Edit(#[from] edit::EditError),
    #[error(transparent)]
    Path(#[from] paths::PathError),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Client(#[from] UnknownClient),
    #[error("something is missing:\n  {}", .0.join("\n  "))]
    Missing(Vec<String>),
    #[error("`{0}` is no mail address")]
    Email(String),
    #[error("something is in the way, so nothing was changed:\n  {}", .0.join("\n  "))]
    Conflicts(Vec<String>),
    #[error("nobody is here to be asked, so nothing was changed")]
    NobodyToAsk,
    #[error("nothing was changed")]
    Declined,
    #[error("{} cannot be read", path.display())]
    SecretFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the system refused a basic request")]
    System(#[from] io::Error),
}

impl Advise for SetupError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Config(error) => error.hint(),
            Self::Change(error) => error.hint(),
            Self::Edit(error) => error.hint(),
            Self::Path(error) => error.hint(),
            Self::Api(error) => error.hint(),
            Self::Read(error) => error.hint(),
            Self::Apply(error) => error.hint(),
            Self::Missing(_) => Some(format!(
                "an API token needs: {}",
                PERMISSIONS.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
            )),
            Self::NobodyToAsk => Some("`--plan` shows what would be done, `--yes` does it".to_owned()),
            Self::Client(_)
            | Self::Email(_)
            | Self::Conflicts(_)
            | Self::Declined
            | Self::SecretFile { .. }
            | Self::System(_) => None,
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Config(error) => error.exit(),
            Self::Change(error) => error.exit(),
            Self::Edit(error) => error.exit(),
            Self::Path(error) => error.exit(),
            Self::Api(error) => error.exit(),
            Self::Read(error) => error.exit(),
            Self::Apply(error) => error.exit(),
            Self::Missing(_) | Self::Email(_) | Self::Client(_) | Self::NobodyToAsk => Exit::Usage,
            Self::Conflicts(_) | Self::Declined | Self::SecretFile { .. } | Self::System(_) => Exit::Failed,
        }
    }
}

pub(super) fn run(arguments: &Setup) -> Result<Exit, Box<dyn Advise>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Box::new(SetupError::System(error)) as Box<dyn Advise>)?;
    runtime.block_on(setup(arguments)).map_err(|error| Box::new(error) as Box<dyn Advise>)
}

async fn setup(arguments: &Setup) -> Result<Exit, SetupError> {
    let path = arguments.account.config.located()?;
    let config = Config::load(&path)?;
    let settings = config.cloudflare.clone().unwrap_or_default();
    let state_dir = paths::state_dir()?;
    let mut missing = Vec::new();
    let hostname = config.bridge.hostname.as_ref().map(|name| name.as_str().to_owned());
    if hostname.is_none() {
        missing
            .push(format!("the public name: `hostname = \"bridge.example.com\"` below `[bridge]` in {}", shown(&path)));
    }
    let emails = emails(arguments, &settings, &mut missing)?;
    let token = arguments.account.token(&mut missing)?;
    let (Some(hostname), Some(token)) = (hostname, token.filter(|_| missing.is_empty())) else {
        return Err(SetupError::Missing(missing));
    };
    let state = State::load(&state_dir).for_hostname(&hostname);
    let client = client(token)?;
    let scope = Scope {
        account_id: given(arguments.account_id.as_ref(), env::CLOUDFLARE_ACCOUNT_ID).or(settings.account_id.clone()),
        zone_id: given(arguments.zone_id.as_ref(), env::CLOUDFLARE_ZONE_ID).or(settings.zone_id.clone()),
        team_domain: arguments
            .team_domain
            .clone()
            .or_else(|| config.access.team_domain.as_ref().map(ToString::to_string))
            .or_else(|| state.team_domain.clone()),
    };
    let actual = actual::read(&client, &scope, &hostname, &state).await?;
    let desired = Desired {
        tunnel_name: settings.tunnel_name.clone(),
        credentials_file: settings.credentials_file.as_ref().map(|file| located(file, &path)),
        cloudflared_dir: paths::home()?.join(".cloudflared"),
        emails,
        login: login(arguments, &settings, &actual)?,
        redirect_uris: redirect_uris(arguments, &settings)?,
        session_duration: settings.session_duration.to_string(),
        force: arguments.force,
        remove_previous: arguments.remove_previous,
        hostname,
    };
    let plan = plan::plan(&desired, &actual, &state, credentials::are_there);
    show(&plan, arguments.account.json);
    if !plan.conflicts.is_empty() {
        return Err(SetupError::Conflicts(plan.conflicts));
    }
    if arguments.account.plan {
        return Ok(Exit::Stopped);
    }
    if !plan.is_empty() {
        arguments.account.confirm("Do this?")?;
    }
    let mut state = state;
    let quiet = arguments.account.json;
    apply::apply(&client, &desired, &actual, &plan, &mut state, &state_dir, |step| progress(step, quiet)).await?;
    if let Some(file) = &state.credentials_file {
        declare_credentials(&path, &settings, file)?;
    }
    tell_running_ferry();
    if !quiet {
        finish(&config, &desired, &plan);
    }
    Ok(Exit::Stopped)
}

/// The one place where a ferry that runs is told of the new settings.
// The control socket has the words for this; until ferry has one, its user is told.
fn tell_running_ferry() {
    output::note("a ferry that runs already has to be started again to take this up");
}

fn finish(config: &Config, desired: &Desired, plan: &Plan) {
    let did = |kind: Kind| plan.step(kind).is_some_and(|step| matches!(step.verb, Verb::Create | Verb::Change));
    if let Some(note) =
        plan.step(Kind::Record).filter(|step| step.verb == Verb::Wait).and_then(|step| step.note.as_ref())
    {
        output::note(&format!("{} was left as it is: {note}", desired.hostname));
    }
    if plan.is_empty() {
        output::note("everything is as it should be");
    }
    if did(Kind::App) {
        output::note("a client that was connected before has to be told: remove its connector and add it again");
    }
    output::print(&urls::text(config, &desired.hostname, None));
}

impl Account {
    /// The token: flag, file, environment, question.
    fn token(&self, missing: &mut Vec<String>) -> Result<Option<Secret>, SetupError> {
        let found = secret(self.token.as_ref(), self.token_file.as_deref(), env::CLOUDFLARE_API_TOKEN)?;
        if found.is_some() {
            return Ok(found);
        }
        let asked =
            ask_secret("Cloudflare API token", "https://dash.cloudflare.com/profile/api-tokens; it is not kept")?;
        if asked.is_none() {
            missing.push("the API token: `CLOUDFLARE_API_TOKEN` or `--token-file`".to_owned());
        }
        Ok(asked)
    }

    /// The same, for a command that needs nothing else.
    pub(super) fn client(&self) -> Result<Client, SetupError> {
        let mut missing = Vec::new();
        let token = self.token(&mut missing)?.ok_or(SetupError::Missing(missing))?;
        client(token)
    }

    /// Goes on only if somebody says so.
    pub(super) fn confirm(&self, question: &str) -> Result<(), SetupError> {
        if self.yes {
            return Ok(());
        }
        if !somebody_is_there() {
            return Err(SetupError::NobodyToAsk);
        }
        match inquire::Confirm::new(question).with_default(false).prompt() {
            Ok(true) => Ok(()),
            _ => Err(SetupError::Declined),
        }
    }
}

fn client(token: Secret) -> Result<Client, SetupError> {
    let base = variable(env::CLOUDFLARE_BASE_URL);
    Ok(Client::new(base.as_deref().unwrap_or(BASE_URL), token, Patience::default())?)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn given(flag: Option<&String>, name: &str) -> Option<String> {
    flag.cloned().or_else(|| variable(name))
}

fn secret(flag: Option<&Hidden>, file: Option<&Path>, name: &str) -> Result<Option<Secret>, SetupError> {
    if let Some(Hidden(secret)) = flag {
        return Ok(Some(secret.clone()));
    }
    if let Some(path) = file {
        let text =
            fs::read_to_string(path).map_err(|source| SetupError::SecretFile { path: path.to_owned(), source })?;
        return Ok(Some(Secret::new(text.trim())));
    }
    Ok(variable(name).map(Secret::new))
}

fn somebody_is_there() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks for a secret without showing it. Its length is: a paste that was cut off shows.
fn ask_secret(what: &str, help: &str) -> Result<Option<Secret>, SetupError> {
    if !somebody_is_there() {
        return Ok(None);
    }
    let prompt = inquire::Password::new(&format!("{what}:")).with_help_message(help).without_confirmation().prompt();
    let answer = prompt.map_err(|_| SetupError::Declined)?;
    let answer = answer.trim();
    output::note(&format!("  {} characters", answer.chars().count()));
    Ok((!answer.is_empty()).then(|| Secret::new(answer)))
}

fn ask_text(what: &str) -> Result<Option<String>, SetupError> {
    if !somebody_is_there() {
        return Ok(None);
    }
    let answer = inquire::Text::new(&format!("{what}:")).prompt().map_err(|_| SetupError::Declined)?;
    Ok(Some(answer.trim().to_owned()).filter(|answer| !answer.is_empty()))
}

fn emails(arguments: &Setup, settings: &Cloudflare, missing: &mut Vec<String>) -> Result<BTreeSet<String>, SetupError> {
    let flags = tidy(&arguments.email);
    let mut emails = if flags.is_empty() { tidy(&settings.emails) } else { flags };
    if emails.is_empty()
        && let Some(answer) = ask_text("Who may log in (mail addresses, with commas)")?
    {
        emails = tidy(&[answer]);
    }
    if emails.is_empty() {
        missing.push(
            "who may log in: `--email you@example.com`, or `emails = [\"you@example.com\"]` below `[cloudflare]`"
                .to_owned(),
        );
    }
    // A star or a bare domain must not become a rule.
    let is_address = |email: &str| {
        email.split_once('@').is_some_and(|(user, host)| {
            !user.is_empty() && host.contains('.') && !host.contains('@') && !email.contains(['*', ' ', '"', '<', '>'])
        })
    };
    match emails.iter().find(|email| !is_address(email)) {
        Some(wrong) => Err(SetupError::Email(wrong.clone())),
        None => Ok(emails),
    }
}

fn tidy(texts: &[String]) -> BTreeSet<String> {
    let parts = texts.iter().flat_map(|text| text.split(',')).map(|part| part.trim().to_ascii_lowercase());
    parts.filter(|part| !part.is_empty()).collect()
}

fn login(arguments: &Setup, settings: &Cloudflare, actual: &Actual) -> Result<Login, SetupError> {
    let client_id = given(arguments.google_client_id.as_ref(), env::GOOGLE_CLIENT_ID);
    let flag = arguments.google_client_secret.as_ref();
    let client_secret = secret(flag, arguments.google_client_secret_file.as_deref(), env::GOOGLE_CLIENT_SECRET)?;
    let named = arguments.identity_provider.clone().or_else(|| settings.identity_provider.clone());
    let named = match named {
        Some(named) => named,
        // As with the Python tool.
        None if client_id.is_some() => "google".to_owned(),
        None if somebody_is_there() => choose_login()?,
        None => "otp".to_owned(),
    };
    match named.to_ascii_lowercase().as_str() {
        "otp" | "onetimepin" => Ok(Login::OneTimePin),
        "google" => {
            let there = actual.providers.iter().find(|provider| provider["type"] == "google");
            let there = there.and_then(|provider| provider.pointer("/config/client_id")?.as_str().map(str::to_owned));
            let is_new = there.is_none();
            if (is_new && client_secret.is_none()) || client_id.is_none() {
                let team = actual.team_domain.as_deref().unwrap_or("<team>.cloudflareaccess.com");
                output::note(&format!(
                    "In the Google console, an OAuth client of type \"Web application\" with\n  \
                     origin        https://{team}\n  redirect URI  https://{team}/cdn-cgi/access/callback"
                ));
            }
            let client_id = match client_id.or(there) {
                Some(id) => id,
                None => ask_text("Google client id")?.ok_or_else(|| {
                    SetupError::Missing(vec![
                        "the Google client id: `GOOGLE_CLIENT_ID` or `--google-client-id`".to_owned(),
                    ])
                })?,
            };
            let client_secret = match client_secret {
                None if is_new => ask_secret("Google client secret", "it goes to Cloudflare and is not kept")?,
                secret => secret,
            };
            Ok(Login::Google { client_id, client_secret })
        }
        _ => Ok(Login::Existing(named)),
    }
}

fn choose_login() -> Result<String, SetupError> {
    const PIN: &str = "one-time PIN: Cloudflare mails a code; nothing else is needed";
    const GOOGLE: &str = "Google: one click, but needs a Google project of your own";
    const OTHER: &str = "a provider that exists in this account, by its name";
    let choice = inquire::Select::new("How do people log in?", vec![PIN, GOOGLE, OTHER]).prompt();
    match choice.map_err(|_| SetupError::Declined)? {
        PIN => Ok("otp".to_owned()),
        GOOGLE => Ok("google".to_owned()),
        _ => ask_text("Its name")?.ok_or(SetupError::Declined),
    }
}

fn redirect_uris(arguments: &Setup, settings: &Cloudflare) -> Result<BTreeSet<String>, UnknownClient> {
    if !arguments.allowed_redirect_uri.is_empty() {
        return Ok(arguments.allowed_redirect_uri.iter().cloned().collect());
    }
    // An empty list is what the Python tool's starter has: it says nothing.
    match settings.allowed_redirect_uris.as_ref().filter(|uris| !uris.is_empty()) {
        Some(uris) => Ok(uris.iter().cloned().collect()),
        None => clients::redirect_uris(settings.clients.as_deref(), &arguments.clients, &settings.extra_redirect_uris),
    }
}

fn located(file: &crate::config::values::PathText, config: &Path) -> PathBuf {
    let base = config.parent().unwrap_or(Path::new("."));
    base.join(file.expand(paths::home().ok().as_deref()))
}

/// Writes where the credentials are into the configuration, or says what to declare.
fn declare_credentials(path: &Path, settings: &Cloudflare, file: &Path) -> Result<(), SetupError> {
    if settings.credentials_file.as_ref().is_some_and(|there| located(there, path) == file) {
        return Ok(());
    }
    let value = shown(file);
    if !edit::is_writable(path) {
        output::note(&format!(
            "# {} cannot be written, so nothing in it was changed. To be declared:\n\n[cloudflare]\ncredentials_file = \
             {value:?}\n\n# The same in Nix:\n\ncloudflare.credentials_file = {value:?};",
            path.display()
        ));
        return Ok(());
    }
    let text = super::change::text_of(path)?;
    super::change::write(path, &edit::set(&text, "cloudflare", "credentials_file", &value)?)?;
    Ok(())
}

/// Shows a plan, on stdout.
pub(super) fn show(plan: &Plan, json: bool) {
    if json {
        let text = serde_json::to_string_pretty(plan).unwrap_or_default();
        output::print(&format!("{text}\n"));
    } else {
        output::print(&render(plan));
    }
}

fn progress(step: &plan::Step, quiet: bool) {
    if !quiet {
        output::note(&format!("  done: {} {}", word(step.verb), title(step.kind)));
    }
}

fn word(verb: Verb) -> &'static str {
    match verb {
        Verb::Create => "create",
        Verb::Change => "change",
        Verb::Keep => "keep",
        Verb::Remove => "remove",
        Verb::Wait => "wait",
    }
}

fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::Tunnel => "tunnel",
        Kind::Credentials => "credentials",
        Kind::Provider => "login",
        Kind::Policy => "allow-list",
        Kind::App => "application",
        Kind::Record => "DNS record",
        Kind::OldTunnel => "old tunnel",
        Kind::OldRecord => "old DNS record",
        Kind::OldApp => "old application",
        Kind::OldPolicy => "old allow-list",
    }
}

fn render(plan: &Plan) -> String {
    let mut text = String::new();
    for step in &plan.steps {
        let sign = match step.verb {
            Verb::Create => '+',
            Verb::Change => '~',
            Verb::Keep => '=',
            Verb::Remove => '-',
            Verb::Wait => '.',
        };
        let _ = writeln!(text, "{sign} {:<7} {:<15} {}", word(step.verb), title(step.kind), step.name);
        for difference in &step.differences {
            let from = if difference.from.is_empty() { String::new() } else { format!("{} -> ", difference.from) };
            let _ = writeln!(text, "            {}: {from}{}", difference.field, difference.to);
        }
        if let Some(note) = &step.note {
            let _ = writeln!(text, "            ({note})");
        }
    }
    for warning in &plan.warnings {
        let _ = writeln!(text, "! {warning}");
    }
    text
}
