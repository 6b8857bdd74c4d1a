pub(crate) mod copy; // COPY and ADD

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
};

use parse_dockerfile::{
    ArgInstruction, Command, Dockerfile, Flag, HealthcheckArguments, Instruction,
    JsonOrStringArray, Source as Written, UnescapedString,
};
use spec::{Descriptor, HealthCheck, Platform, Reference};

use self::copy::{Copy, Failed, From, ITEMS_MAX};
use crate::{
    cache::Cache,
    context::Context,
    dockerfile::duration::parse_duration_ns,
    dockerfile::expansion::{EXPANDED_BYTES_MAX, Expander},
    dockerfile::variables::{Variables, is_for, parse_platform, platform_args, platform_name},
    error::Error,
    layer::items::{Item, Items, MODE_EXECUTABLE, MODE_PLAIN, Source},
    layer::spool::Spool,
    layout::Layout,
    stage::{Added, Stage, triggers},
};

/// Everything that reading a Dockerfile needs to know.
pub(crate) struct Input<'a> {
    /// Its name, for messages.
    pub(crate) file: String,
    pub(crate) text: &'a str,
    pub(crate) context: &'a Context,
    pub(crate) layout: &'a Layout,
    pub(crate) cache: &'a Cache,
    pub(crate) args: &'a BTreeMap<String, String>,
    pub(crate) target: Option<&'a str>,
    /// The platforms of this host, for native bases.
    pub(crate) native: &'a [Platform],
}

/// What a Dockerfile describes, and what there is to say about it.
pub(crate) struct Read {
    pub(crate) stage: Stage,
    pub(crate) notes: Vec<String>,
}

/// Larger ones are generated nonsense.
pub(crate) const TEXT_BYTES_MAX: u64 = 4 << 20;
/// A stage that needs a stage that needs …
const STAGES_MAX: usize = 100;
/// A hundred times what people write.
const INSTRUCTIONS_MAX: usize = 10_000;
/// As many as a program could be handed; each ENV looks through all of them.
const VARIABLES_MAX: usize = 1000;
/// Nobody reads more.
const NOTES_MAX: usize = 100;
/// As much of an instruction as people look at.
const LINE_CHARS_MAX: usize = 200;
/// A word of a hostile file can be as long as the file.
const MESSAGE_CHARS_MAX: usize = 1000;
/// No path that Linux opens is longer.
const PATH_BYTES_MAX: usize = 4096;
/// EXPOSE 1-65535 would make a config that nobody reads.
const PORT_RANGE_MAX: u16 = 100;

/// Carries out a Dockerfile, as far as the last stage (or the target) needs it. Nothing is written
/// yet.
pub(crate) fn read(input: &Input<'_>, spool: &mut Spool<'_>) -> Result<Read, Error> {
    let text = input.text.strip_prefix('\u{feff}').unwrap_or(input.text);
    let parsed = parse_dockerfile::parse(text).map_err(|error| {
        let line = Some(error.line()).filter(|line| *line > 0);
        let why = error.to_string();
        let why = shortened(why.split(" at line ").next().unwrap_or_default(), MESSAGE_CHARS_MAX);
        Error::BuildFile { file: input.file.clone(), line, why }
    })?;
    let reader = Reader {
        input,
        text,
        parsed: &parsed,
        notes: RefCell::default(),
        used_args: RefCell::default(),
        expanded_bytes_left: Cell::new(EXPANDED_BYTES_MAX),
        items: Cell::default(),
        done: RefCell::default(),
    };
    reader.check_size()?;
    let stages: Vec<_> = parsed.stages().collect();
    let last = match input.target {
        None => stages.len() - 1,
        Some(target) => {
            reader.stage_number(target, stages.len()).ok_or_else(|| Error::BuildFile {
                file: input.file.clone(),
                line: None,
                why: format!("there is no stage `{target}`"),
            })?
        }
    };
    for number in reader.needed(last)? {
        let stage = reader.carry_out_stage(number, spool)?;
        reader.done.borrow_mut().insert(number, Rc::new(stage));
    }
    let stage = reader.stage(last)?.stage.clone();
    let mut notes: Vec<String> = reader.notes.into_inner();
    let used = reader.used_args.into_inner();
    notes.extend(
        input
            .args
            .keys()
            .filter(|name| !used.contains(*name))
            .map(|name| format!("the build argument `{name}` is not used: no ARG of that name")),
    );
    Ok(Read { stage, notes })
}

struct Reader<'a, 't> {
    input: &'a Input<'a>,
    text: &'a str,
    parsed: &'a Dockerfile<'t>,
    notes: RefCell<Vec<String>>,
    used_args: RefCell<BTreeSet<String>>,
    expanded_bytes_left: Cell<usize>,
    /// How many files and folders all stages hold.
    items: Cell<usize>,
    /// Stages that were carried out.
    done: RefCell<BTreeMap<usize, Rc<Running>>>,
}

/// What is known while one stage is read, and to those that are made from it.
#[derive(Clone)]
struct Running {
    stage: Stage,
    variables: Variables,
    /// CMD of this stage stays when ENTRYPOINT is set; that of its base does not.
    own_cmd: bool,
    /// What runs a line: that of SHELL.
    shell: Vec<String>,
}

impl Running {
    fn on(base: Stage) -> Self {
        Self {
            variables: Variables::of_env(&base.config.env),
            stage: base,
            own_cmd: false,
            shell: ["/bin/sh", "-c"].map(str::to_owned).into(),
        }
    }
}

impl Reader<'_, '_> {
    fn check_size(&self) -> Result<(), Error> {
        let sizes = [
            ("stages", self.parsed.stages().len(), STAGES_MAX),
            ("instructions", self.parsed.instructions.len(), INSTRUCTIONS_MAX),
        ];
        match sizes.into_iter().find(|(_, there, max)| there > max) {
            Some((what, there, max)) => {
                Err(self.wrong(0, format!("it has {there} {what}, at most {max}")))
            }
            None => Ok(()),
        }
    }

    /// The number of the stage called `name` among the first `before`, the latest first.
    fn stage_number(&self, name: &str, before: usize) -> Option<usize> {
        let named = |from: &parse_dockerfile::FromInstruction<'_>| {
            from.as_.as_ref().is_some_and(|(_, own)| own.value.eq_ignore_ascii_case(name))
        };
        let by_name = self
            .parsed
            .stages()
            .enumerate()
            .take(before)
            .filter(|(_, stage)| named(stage.from))
            .last();
        by_name.map(|(at, _)| at).or_else(|| name.parse().ok().filter(|at| *at < before))
    }

    /// The stages that `last` is made from, itself included, in their order: nobody needs a later
    /// one.
    fn needed(&self, last: usize) -> Result<BTreeSet<usize>, Error> {
        let stages: Vec<_> = self.parsed.stages().collect();
        let globals = self.global_args()?;
        let mut needed = BTreeSet::from([last]);
        for number in (0..=last).rev().filter(|number| *number < stages.len()) {
            if !needed.contains(&number) {
                continue;
            }
            let image = self.expanded(
                &stages[number].from.image,
                &self.expander(&|name| globals.value(name)),
            )?;
            needed.extend(self.stage_number(&image, number));
            for instruction in stages[number].instructions {
                let Instruction::Copy(copy) = instruction else { continue };
                let from = copy.options.iter().filter(|flag| flag.name.value == "from");
                let names = from.filter_map(|flag| flag.value.as_ref());
                needed.extend(names.filter_map(|name| self.stage_number(&name.value, number)));
            }
        }
        Ok(needed)
    }

    fn stage(&self, number: usize) -> Result<Rc<Running>, Error> {
        let done = self.done.borrow().get(&number).cloned();
        done.ok_or_else(|| self.wrong(0, "a stage is used before it is made".to_owned()))
    }

    fn carry_out_stage(&self, number: usize, spool: &mut Spool<'_>) -> Result<Running, Error> {
        let Some(stage) = self.parsed.stages().nth(number) else {
            return Err(self.wrong(0, "it has no such stage".to_owned()));
        };
        let globals = self.global_args()?;
        let image =
            self.expanded(&stage.from.image, &self.expander(&|name| globals.value(name)))?;
        let platform = self.platform_asked_for(stage.from, &globals)?;
        let mut running = match self.stage_number(&image, number) {
            Some(earlier) => {
                let parent = self.stage(earlier)?;
                let items = parent.stage.added.iter().map(|added| added.items.0.len()).sum();
                self.count(items, stage.from.from.span.start)?;
                Running { own_cmd: false, ..Running::clone(&parent) }
            }
            None => {
                let at = stage.from.from.span.start;
                let scratch = image == "scratch";
                match scratch {
                    true => Running::on(Stage::scratch()),
                    false => {
                        let base = self.base_image(&image, platform.as_ref(), at)?;
                        if let Some(trigger) = base.triggers.first() {
                            let trigger = shortened(trigger, LINE_CHARS_MAX);
                            let what = format!(
                                "`{image}` asks for `ONBUILD {trigger}`, which is not carried out here"
                            );
                            let instead = "build the base without ONBUILD, and write the instruction behind FROM";
                            return Err(self.unsupported(at, &what, instead));
                        }
                        Running::on(base)
                    }
                }
            }
        };
        for instruction in stage.instructions {
            self.carry_out(&mut running, instruction, number, &globals, spool)?;
        }
        Ok(running)
    }

    /// What `FROM --platform` asks for.
    fn platform_asked_for(
        &self,
        from: &parse_dockerfile::FromInstruction<'_>,
        globals: &Variables,
    ) -> Result<Option<Platform>, Error> {
        let mut platform = None;
        for flag in &from.options {
            let (name, at) = (&*flag.name.value, flag.span().start);
            let Some(text) = flag.value.as_ref().filter(|_| name == "platform") else {
                return Err(self.wrong(
                    at,
                    format!("FROM has no `--{name}`: it has `--platform=linux/amd64`"),
                ));
            };
            let text = self.expanded(text, &self.expander(&|name| globals.value(name)))?;
            platform = Some(parse_platform(&text).map_err(|why| self.wrong(at, why))?);
        }
        Ok(platform)
    }

    /// The ARGs in front of the first FROM, and those that are there without being declared.
    fn global_args(&self) -> Result<Variables, Error> {
        let mut globals = Variables::default();
        for (name, value) in self.input.native.first().map(platform_args).unwrap_or_default() {
            let given = self.input.args.get(&name).inspect(|_| self.uses_arg(&name)).cloned();
            globals.args.insert(name, given.unwrap_or(value));
        }
        for arg in self.parsed.global_args() {
            self.arg(arg, &mut globals, &Variables::default())?;
        }
        Ok(globals)
    }

    fn arg(
        &self,
        arg: &ArgInstruction<'_>,
        variables: &mut Variables,
        globals: &Variables,
    ) -> Result<(), Error> {
        let at = arg.arg.span.start;
        for word in self.expander(&|_| None).words(&arg.arguments.value) {
            let (name, default) =
                word.split_once('=').map_or((word, None), |(name, default)| (name, Some(default)));
            let default =
                default.map(|text| self.expander(&|name| variables.value(name)).expand(text));
            let default = default.transpose().map_err(|why| self.wrong(at, why))?;
            self.uses_arg(name);
            let given = self.input.args.get(name).cloned();
            if let Some(value) = given.or(default).or_else(|| globals.value(name)) {
                variables.args.insert(name.to_owned(), value);
            }
        }
        Ok(())
    }

    fn uses_arg(&self, name: &str) {
        self.used_args.borrow_mut().insert(name.to_owned());
    }

    fn base_image(
        &self,
        image: &str,
        platform: Option<&Platform>,
        at: usize,
    ) -> Result<Stage, Error> {
        let Input { layout, cache, native, .. } = self.input;
        let reference: Reference =
            image.parse().map_err(|error: spec::ParseError| self.wrong(at, error.to_string()))?;
        let Some(descriptor) = layout.resolve(&reference)? else {
            let folder = self.folder_beside(&reference);
            return Err(Error::NoBase {
                file: self.input.file.clone(),
                line: self.line(at),
                image: reference,
                folder,
            });
        };
        let mut wanted = None;
        if let Some(platform) = platform {
            let is_wanted = |entry: &Descriptor| {
                entry.platform.as_ref().is_some_and(|own| is_for(own, platform))
            };
            wanted =
                layout.manifests(&descriptor)?.into_iter().map(|(entry, _)| entry).find(is_wanted);
        }
        let manifest = match wanted {
            Some(manifest) => manifest,
            None => layout.choose(&descriptor, native)?,
        };
        let plan = layout.plan(&manifest)?;
        if let Some(platform) = platform.filter(|platform| !is_for(&plan.platform, platform)) {
            let (asked, there) = (platform_name(platform), platform_name(&plan.platform));
            self.note(
                at,
                format!(
                    "FROM --platform={asked} is ignored: the local `{reference}` is for {there}"
                ),
            );
        }
        let mut stage = Stage::from_image(layout, cache, &reference, &plan)?;
        if plan.format == image::Format::Image {
            stage.triggers = triggers(layout, &manifest)?;
        }
        Ok(stage)
    }

    /// A folder of the same name beside the build context, from which the missing image could be
    /// built.
    fn folder_beside(&self, image: &Reference) -> Option<PathBuf> {
        if image.registry().is_some() {
            return None;
        }
        let name = image.repository().rsplit('/').next()?;
        let context = self.input.context.path();
        let folder = context.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or_else(
            || {
                context
                    .canonicalize()
                    .ok()
                    .and_then(|path| path.parent().map(|parent| parent.join(name)))
            },
            |parent| Some(parent.join(name)),
        )?;
        ["Dockerfile", "margay.toml"]
            .iter()
            .any(|file| folder.join(file).is_file())
            .then_some(folder)
    }

    fn carry_out(
        &self,
        running: &mut Running,
        instruction: &Instruction<'_>,
        number: usize,
        globals: &Variables,
        spool: &mut Spool<'_>,
    ) -> Result<(), Error> {
        let Running { stage, variables, own_cmd, shell } = running;
        let value = |name: &str| variables.value(name);
        let words = self.expander(&value);
        match instruction {
            Instruction::Arg(arg) => self.arg(arg, variables, globals)?,
            Instruction::Env(env) => {
                let at = env.env.span.start;
                let pairs = words.pairs(&env.arguments.value).map_err(|why| self.wrong(at, why))?;
                for (name, text) in pairs {
                    set_env(stage.config.env.get_or_insert_default(), &name, &text);
                    if stage.config.env.as_ref().is_some_and(|lines| lines.len() > VARIABLES_MAX) {
                        return Err(self.wrong(
                            at,
                            format!("the image has more than {VARIABLES_MAX} variables"),
                        ));
                    }
                    variables.env.insert(name, text);
                }
            }
            Instruction::Copy(copy) => {
                let at = copy.copy.span.start;
                self.copy(
                    stage,
                    "COPY",
                    at,
                    &copy.options,
                    &copy.src,
                    &copy.dest,
                    number,
                    &words,
                    spool,
                )?;
            }
            Instruction::Add(add) => {
                let at = add.add.span.start;
                self.copy(
                    stage,
                    "ADD",
                    at,
                    &add.options,
                    &add.src,
                    &add.dest,
                    number,
                    &words,
                    spool,
                )?;
            }
            Instruction::Run(run) => {
                let line = self.line(run.run.span.start);
                return Err(Error::Run { file: self.input.file.clone(), line });
            }
            Instruction::Onbuild(onbuild) => {
                let (what, instead) =
                    ("ONBUILD is not supported", "write the instruction where it is needed");
                return Err(self.unsupported(onbuild.onbuild.span.start, what, instead));
            }
            Instruction::Shell(instruction) => {
                *shell = instruction.arguments.iter().map(|word| word.value.to_string()).collect();
            }
            Instruction::Maintainer(maintainer) => {
                let why =
                    "MAINTAINER is ignored: use LABEL org.opencontainers.image.authors".to_owned();
                self.note(maintainer.maintainer.span.start, why);
            }
            other => self.configure(stage, own_cmd, shell, other, &words)?,
        }
        Ok(())
    }

    /// An instruction that changes how the image is run, and brings no files.
    fn configure(
        &self,
        stage: &mut Stage,
        own_cmd: &mut bool,
        shell: &[String],
        instruction: &Instruction<'_>,
        words: &Expander<'_>,
    ) -> Result<(), Error> {
        let word = |text: &UnescapedString<'_>| self.expanded(text, words);
        let config = &mut stage.config;
        match instruction {
            Instruction::Label(label) => {
                let at = label.label.span.start;
                for (name, mut text) in
                    words.pairs(&label.arguments.value).map_err(|why| self.wrong(at, why))?
                {
                    if name == image::WANTS_KEY {
                        let wants = image::parse_wants(&text)
                            .map_err(|error| self.wrong(at, error.to_string()))?;
                        text = wants_text(&wants);
                    }
                    config.labels.get_or_insert_default().insert(name, text);
                }
            }
            Instruction::Workdir(workdir) => {
                let path = word(&workdir.arguments)?;
                let base = config.working_dir.as_deref().unwrap_or("/");
                let path = if path.starts_with('/') { path } else { format!("{base}/{path}") };
                let folder = normal_folder(&path);
                if folder.len() > PATH_BYTES_MAX {
                    let why =
                        format!("`{}` is longer than any path", shortened(&folder, LINE_CHARS_MAX));
                    return Err(self.wrong(workdir.workdir.span.start, why));
                }
                config.working_dir = Some(folder.clone());
                // A layer of its own, as with Docker: what comes next may ask whether there is a
                // folder.
                let items = copy::put_at(stage, &folder, Item::Folder { mode: MODE_EXECUTABLE });
                let items =
                    items.map_err(|failed| self.failed(failed, workdir.workdir.span.start))?;
                if !items.0.is_empty() {
                    let made_by = shortened(&format!("WORKDIR {folder}"), LINE_CHARS_MAX);
                    self.add(stage, Added { items, made_by }, workdir.workdir.span.start)?;
                }
            }
            Instruction::Entrypoint(entrypoint) => {
                let (args, line) = command(&entrypoint.arguments, shell);
                if !*own_cmd {
                    config.cmd = None;
                    stage.shell_form.cmd = false;
                }
                config.entrypoint = Some(args);
                stage.shell_form.entrypoint = line;
            }
            Instruction::Cmd(cmd) => {
                let (args, line) = command(&cmd.arguments, shell);
                *own_cmd = true;
                config.cmd = Some(args);
                stage.shell_form.cmd = line;
            }
            Instruction::Expose(expose) => {
                for text in &expose.arguments {
                    for port in
                        ports(&word(text)?).map_err(|why| self.wrong(text.span.start, why))?
                    {
                        config.exposed_ports.get_or_insert_default().insert(port, empty_object());
                    }
                }
            }
            Instruction::Volume(volume) => {
                let paths = match &volume.arguments {
                    JsonOrStringArray::Json(list) => {
                        list.value.iter().map(&word).collect::<Result<Vec<_>, _>>()?
                    }
                    JsonOrStringArray::String(list) => {
                        list.iter().map(&word).collect::<Result<Vec<_>, _>>()?
                    }
                };
                config
                    .volumes
                    .get_or_insert_default()
                    .extend(paths.into_iter().map(|path| (path, empty_object())));
            }
            Instruction::User(user) => {
                let text = word(&user.arguments)?;
                check_user(&text).map_err(|why| self.wrong(user.user.span.start, why))?;
                config.user = Some(text);
            }
            Instruction::Stopsignal(signal) => config.stop_signal = Some(word(&signal.arguments)?),
            Instruction::Healthcheck(check) => {
                config.healthcheck =
                    Some(self.healthcheck(&check.options, &check.arguments, words)?);
            }
            _ => {
                return Err(
                    self.wrong(0, "it has an instruction that is not known here".to_owned())
                );
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "COPY and ADD are two types with the same parts")]
    fn copy(
        &self,
        stage: &mut Stage,
        keyword: &str,
        at: usize,
        options: &[Flag<'_>],
        sources: &[Written<'_>],
        destination: &UnescapedString<'_>,
        number: usize,
        words: &Expander<'_>,
        spool: &mut Spool<'_>,
    ) -> Result<(), Error> {
        let options = self.copy_options(keyword, at, options, words)?;
        let destination = self.expanded(destination, words)?;
        let mut paths = Vec::new();
        let mut documents = Vec::new();
        for source in sources {
            match source {
                Written::Path(path) => paths.push(self.expanded(path, words)?),
                Written::HereDoc(document) => documents.push(document),
                _ => {
                    return Err(
                        self.wrong(at, format!("{keyword} has a source that is not known here"))
                    );
                }
            }
        }
        if let Some(path) =
            paths.iter().chain([&destination]).find(|path| path.len() > PATH_BYTES_MAX)
        {
            return Err(self.wrong(
                at,
                format!("`{}` is longer than any path", shortened(path, LINE_CHARS_MAX)),
            ));
        }
        if let Some(url) = paths.iter().find(|path| keyword == "ADD" && is_url(path)) {
            let instead = "fetch it outside, check its digest, and COPY the file";
            return Err(self.unsupported(at, &format!("ADD does not fetch `{url}`"), instead));
        }
        let items = match documents.as_slice() {
            [] => {
                let other;
                let from = match &options.from {
                    None => From::Context(self.input.context),
                    Some(name) => {
                        other = match self.stage_number(name, number) {
                            Some(earlier) => self.stage(earlier)?,
                            None => Rc::new(Running::on(self.base_image(name, None, at)?)),
                        };
                        From::Tree { tree: other.stage.tree()?, name: name.clone() }
                    }
                };
                let (sources, destination, unpack) =
                    (paths.as_slice(), destination.as_str(), keyword == "ADD");
                let copy = Copy { sources, destination, mode: options.mode, unpack, from };
                copy::copy(stage, &copy, spool).map_err(|failed| self.failed(failed, at))?
            }
            [document] if paths.is_empty() && !destination.ends_with('/') => {
                let text = match document.expand {
                    true => expand_text(&document.value, words),
                    false => Ok(document.value.to_string()),
                };
                let text = text.map_err(|why| self.wrong(at, why))?;
                self.document(stage, &destination, &text, options.mode, at)?
            }
            _ => {
                let what = format!(
                    "{keyword} takes one here-document, and a file name as its destination"
                );
                return Err(self.unsupported(at, &what, "put the text into files and COPY them"));
            }
        };
        let line = self.text[at..].lines().next().unwrap_or_default().trim_end_matches('\\').trim();
        self.add(stage, Added { items, made_by: shortened(line, LINE_CHARS_MAX) }, at)
    }

    fn add(&self, stage: &mut Stage, added: Added, at: usize) -> Result<(), Error> {
        self.count(added.items.0.len(), at)?;
        stage.added.push(added);
        stage.check_layers().map_err(|why| self.wrong(at, why))
    }

    /// Counts what all stages hold: each is kept until the last one is done.
    fn count(&self, items: usize, at: usize) -> Result<(), Error> {
        self.items.set(self.items.get().saturating_add(items));
        match self.items.get() > ITEMS_MAX {
            true => {
                Err(self
                    .wrong(at, format!("its stages hold more than {ITEMS_MAX} files and folders")))
            }
            false => Ok(()),
        }
    }

    fn document(
        &self,
        stage: &Stage,
        destination: &str,
        text: &str,
        mode: Option<u32>,
        at: usize,
    ) -> Result<Items, Error> {
        let workdir = stage.config.working_dir.as_deref().unwrap_or("/");
        let path = if destination.starts_with('/') {
            destination.to_owned()
        } else {
            format!("{workdir}/{destination}")
        };
        let source = Source::Bytes(Arc::from(text.as_bytes()));
        let file = Item::File { mode: mode.unwrap_or(MODE_PLAIN), source };
        copy::put_at(stage, &path, file).map_err(|failed| self.failed(failed, at))
    }

    fn copy_options(
        &self,
        keyword: &str,
        at: usize,
        options: &[Flag<'_>],
        words: &Expander<'_>,
    ) -> Result<CopyOptions, Error> {
        let mut result = CopyOptions::default();
        for flag in options {
            let text = flag.value.as_ref().map(|text| self.expanded(text, words)).transpose()?;
            match (&*flag.name.value, text) {
                // As Docker does: which stages are needed is known before any variable is.
                ("from", Some(_)) if keyword == "COPY" => {
                    result.from = flag.value.as_ref().map(|name| name.value.to_string())
                }
                ("chmod", Some(mode)) => {
                    result.mode = Some(parse_mode(&mode).map_err(|why| self.wrong(at, why))?)
                }
                ("chown", _) => self
                    .note(at, format!("{keyword} --chown is ignored: every file belongs to root")),
                // Every layer here is independent of what is below it already.
                ("link", _) => {}
                (name, _) => {
                    let what = format!("{keyword} --{name} is not supported");
                    return Err(self.unsupported(
                        at,
                        &what,
                        "leave it out, or use several COPY lines",
                    ));
                }
            }
        }
        Ok(result)
    }

    fn healthcheck(
        &self,
        options: &[Flag<'_>],
        arguments: &HealthcheckArguments<'_>,
        words: &Expander<'_>,
    ) -> Result<HealthCheck, Error> {
        let mut check = HealthCheck::default();
        for flag in options {
            let at = flag.span().start;
            let text = flag
                .value
                .as_ref()
                .map(|text| self.expanded(text, words))
                .transpose()?
                .unwrap_or_default();
            let duration = || parse_duration_ns(&text).map_err(|why| self.wrong(at, why));
            match &*flag.name.value {
                "interval" => check.interval = Some(duration()?),
                "timeout" => check.timeout = Some(duration()?),
                "start-period" => check.start_period = Some(duration()?),
                "start-interval" => {
                    duration()?;
                    self.note(
                        at,
                        "HEALTHCHECK --start-interval is ignored: `--interval` counts from the start".to_owned(),
                    );
                }
                "retries" => {
                    let retries = text
                        .parse()
                        .map_err(|_| self.wrong(at, format!("`{text}` is not a number")))?;
                    check.retries = Some(retries);
                }
                name => return Err(self.wrong(at, format!("HEALTHCHECK has no `--{name}`"))),
            }
        }
        check.test = match arguments {
            HealthcheckArguments::None { .. } => vec!["NONE".to_owned()],
            HealthcheckArguments::Cmd { arguments: Command::Exec(list), .. } => ["CMD".to_owned()]
                .into_iter()
                .chain(list.value.iter().map(|word| word.value.to_string()))
                .collect(),
            HealthcheckArguments::Cmd { arguments: Command::Shell(line), .. } => {
                vec!["CMD-SHELL".to_owned(), line.value.trim().to_owned()]
            }
            _ => return Err(self.wrong(0, "HEALTHCHECK is CMD or NONE".to_owned())),
        };
        Ok(check)
    }

    fn expander<'a>(&'a self, value: &'a dyn Fn(&str) -> Option<String>) -> Expander<'a> {
        let escape = self
            .parsed
            .parser_directives
            .escape
            .as_ref()
            .map_or('\\', |directive| directive.value.value);
        Expander { value, escape, left: &self.expanded_bytes_left }
    }

    fn expanded(&self, text: &UnescapedString<'_>, words: &Expander<'_>) -> Result<String, Error> {
        words.expand(&text.value).map_err(|why| self.wrong(text.span.start, why))
    }

    fn failed(&self, failed: Failed, at: usize) -> Error {
        match failed {
            Failed::Error(error) => error,
            Failed::Wrong(why) => self.wrong(at, why),
            Failed::Missing { source, tree, ignored } => {
                let (file, line) = (self.input.file.clone(), Some(self.line(at)));
                Error::CopyMissing { file, line, source_path: source, tree, ignored }
            }
        }
    }

    /// Counted from 1.
    fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
    }

    fn wrong(&self, at: usize, why: String) -> Error {
        let why = shortened(&why, MESSAGE_CHARS_MAX);
        Error::BuildFile { file: self.input.file.clone(), line: Some(self.line(at)), why }
    }

    fn unsupported(&self, at: usize, what: &str, instead: &str) -> Error {
        let (file, line) = (self.input.file.clone(), self.line(at));
        Error::Unsupported { file, line, what: what.to_owned(), instead: instead.to_owned() }
    }

    fn note(&self, at: usize, text: String) {
        let mut notes = self.notes.borrow_mut();
        if notes.len() < NOTES_MAX {
            notes.push(format!("line {}: {}", self.line(at), shortened(&text, MESSAGE_CHARS_MAX)));
        }
    }
}

/// `text`, or its beginning.
fn shortened(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[derive(Default)]
struct CopyOptions {
    from: Option<String>,
    mode: Option<u32>,
}

/// Variables of a here-document: quotes are only letters there.
fn expand_text(text: &str, words: &Expander<'_>) -> Result<String, String> {
    // Here the backslash escapes, whatever `# escape` says.
    let words = Expander { escape: '\\', ..*words };
    let quoted = text.replace('\\', "\\\\").replace("\\\\$", "\\$").replace('"', "\\\"");
    words.expand(&format!("\"{quoted}\""))
}

/// The arguments, and whether they were written as a line for `shell`.
fn command(command: &Command<'_>, shell: &[String]) -> (Vec<String>, bool) {
    match command {
        Command::Exec(list) => {
            (list.value.iter().map(|word| word.value.to_string()).collect(), false)
        }
        Command::Shell(line) => {
            (shell.iter().cloned().chain([line.value.trim().to_owned()]).collect(), true)
        }
        _ => (Vec::new(), false),
    }
}

/// One canonical line each.
pub(crate) fn wants_text(wants: &[spec::Want]) -> String {
    wants.iter().map(spec::Want::to_string).collect::<Vec<_>>().join("\n")
}

/// In the place where the name stood first, as Docker does.
pub(crate) fn set_env(lines: &mut Vec<String>, name: &str, value: &str) {
    let line = format!("{name}={value}");
    match lines.iter_mut().find(|old| old.split('=').next() == Some(name)) {
        Some(old) => *old = line,
        None => lines.push(line),
    }
}

/// `80`, `80/udp`, `8000-8010`: as the config writes them.
pub(crate) fn ports(text: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("`{text}` is not a port like 80, 53/udp or 8000-8010");
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp") {
        return Err(wrong());
    }
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong);
    let (first, last) = (port(first)?, port(last)?);
    if last < first || last - first >= PORT_RANGE_MAX {
        return Err(format!("`{text}` is a range of no or of more than {PORT_RANGE_MAX} ports"));
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

pub(crate) fn empty_object() -> serde_json::Value {
    serde_json::Value::Object(serde_json::Map::new())
}

/// A name or a number below 2³², and the same for the group.
fn check_user(text: &str) -> Result<(), String> {
    let good = |part: &str| match part.bytes().all(|b| b.is_ascii_digit()) {
        true => part.parse::<u32>().is_ok_and(|id| id != u32::MAX),
        false => {
            part.len() <= 64
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'$'))
                && !part.starts_with('-')
        }
    };
    let (user, group) =
        text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    match good(user) && group.is_none_or(good) {
        true => Ok(()),
        false => Err(format!("`{text}` is not a user: use NAME, UID, NAME:GROUP or UID:GID")),
    }
}

fn parse_mode(text: &str) -> Result<u32, String> {
    let digits = (1..=4).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if digits => Ok(mode),
        _ => Err(format!("`--chmod={text}` is not an octal mode like 755")),
    }
}

fn is_url(text: &str) -> bool {
    ["http://", "https://", "git://", "git@", "ftp://"]
        .iter()
        .any(|scheme| text.starts_with(scheme))
}

/// Absolute, without `.`, `..`, doubled or trailing `/`.
fn normal_folder(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
