//! Lines as people of other tools type them, and what becomes of each.

use std::ffi::OsString;

use clap::Parser;
use vellum_core::tree::LookupError;
use vellum_store::StoreError;

use super::*;
use crate::arguments::Arguments;
use crate::failure::CommandFailure;
use crate::suggestion::{explain_failure, is_harmless, parse_command_line};

/// `=`: is run as this line. `~`: is refused, and the advice has these words. `?`: is a line of
/// Vellum's own, whose words name nothing; then the advice has these words.
const LINES: &str = r"
# VBoxManage
createmedium disk --filename web --size 1024 = create --filename web --size 1024
createmedium --filename web --diffparent base = create --filename web --diffparent base
createhd --filename web --sizebyte 4096 = create --filename web --sizebyte 4096
createmedium disk --filename web --size 10 --format VDI --variant Standard ~ vellum create web 10M
clonemedium disk web copy = clone web copy
clonehd web copy = clone web copy
clonemedium disk a.vdi b.vmdk --format VMDK ~ vellum convert a.vdi b.vmdk -O vmdk
showmediuminfo web = info web
showmediuminfo disk web --json = info web --json
showhdinfo web = info web
modifymedium disk web --type immutable = modify web --type immutable
modifymedium kiosk --autoreset off = modify kiosk --autoreset off
modifyhd web --resize 20480 ~ vellum resize web 20480M
modifymedium disk web --resize 20480 ~ vellum resize web 20480M
modifymedium disk web --resizebyte=4096 ~ vellum resize web 4096
modifymedium disk web --compact ~ vellum gc -n
modifymedium disk web --move /elsewhere ~ vellum rename web NEW
modifymedium disk web --description text = describe web text
modifymedium disk web --property owner=anna ~ vellum set web owner=anna
setmediumproperty disk web owner anna = set web owner=anna
mediumproperty set web owner anna = set web owner=anna
mediumproperty delete web owner = set web --unset owner
getmediumproperty web owner = get web owner
snapshot vm edit monday --description text ~ vellum describe vm@monday TEXT
closemedium web ~ nothing has to be closed
closemedium disk web --delete ~ vellum rm -n web
list hdds ? vellum list
list vms ? vellum machine list
list runningvms ? vellum machine list
list snapshots ? vellum snapshot list
snapshot vm take monday ~ vellum machine snapshot take vm@monday
snapshot vm take monday --live ~ vellum snapshot take vm@monday
snapshot vm restore monday ~ vellum machine snapshot restore vm@monday
snapshot vm restorecurrent ~ vm@latest
snapshot vm delete monday ~ vellum machine snapshot delete vm@monday
snapshot vm list ~ vellum machine snapshot list vm
snapshot vm showvminfo monday = machine show vm@monday
snapshot vm edit monday --name x ~ vellum rename vm@monday NEW
showvminfo vm --details = machine show vm
createvm --name vm --register ~ vellum machine create vm
registervm vm.vbox ~ vellum machine import vm.vbox
unregistervm vm --delete ~ vellum machine delete vm
startvm vm --type headless ~ vellum machine start vm
controlvm vm poweroff ~ vellum machine stop vm
storageattach vm --storagectl SATA --port 0 --medium web ~ vellum machine add-disk vm web
storageattach vm --medium none ~ vellum machine remove-disk vm
modifyvm vm --memory 1024 ~ vellum machine config vm FILE
convertfromraw disk.raw disk.vdi = convert disk.raw disk.vdi -f raw -O vdi
convertfromraw disk.raw disk.vmdk --format VMDK = convert disk.raw disk.vmdk -f raw -O vmdk
converttoraw disk.vdi disk.raw = convert disk.vdi disk.raw -O raw
export vm -o vm.ova ~ vellum machine export vm vm.ova -O ova
import vm.ova ~ vellum machine import vm.ova
# qemu-img and qemu-nbd
create -f qcow2 web 10G ~ vellum create web 10G
create -f qcow2 -b base.qcow2 -F qcow2 web ~ vellum create web -b base.qcow2
create -b base -F qcow2 web 20G ~ vellum create web -b base 20G
check web ~ vellum info web
check -f qcow2 disk.qcow2 ~ vellum check
check -r all web ~ vellum repair
check --subset 5% ~ vellum check --read-data --subset 1/20
check --read-data --subset=10% ~ vellum check --read-data --subset 1/10
check --read-data-subset=5% ~ --subset 1/20
check --read-data-subset 2/7 = check --read-data --subset 2/7
snapshot -l web = snapshot list web
snapshot -c monday web = snapshot take web@monday
snapshot web -c monday = snapshot take web@monday
snapshot -a monday web ~ vellum snapshot restore web@monday
snapshot -d monday web ~ vellum snapshot delete -n web@monday
info --backing-chain disk.qcow2 ~ vellum tree
info -U disk.qcow2 = info disk.qcow2
map --force-share disk.qcow2 --output=json = map disk.qcow2 --output=json
compare -U a.raw b.raw = compare a.raw b.raw
convert -U a.raw b.vdi = convert a.raw b.vdi
convert -c -O qcow2 a.raw b = convert -O qcow2 -o compression_type=zlib a.raw b
convert -p -S 4k a.raw b.raw = convert a.raw b.raw -p
convert -m 8 a.raw b.raw = convert a.raw b.raw
convert -W a.raw b.raw = convert a.raw b.raw
convert -n -O raw disk.qcow2 /dev/vdb ~ vellum convert disk.qcow2 /dev/vdb
convert -l monday disk.qcow2 x.raw ~ vellum import --chain
amend -o compat=1.1 disk.qcow2 ~ vellum convert FROM TO -O qcow2
rebase -b base -F qcow2 trial ~ vellum rebase trial -b base
commit -d trial ~ vellum commit trial
measure -O qcow2 disk.raw ~ vellum measure disk.raw
dd if=a.raw of=b.raw bs=1M ~ vellum convert a.raw b.raw
bitmap --add disk.qcow2 b0 ~ vellum diff
nbd -c /dev/nbd0 web ~ nbd-client -unix PATH /dev/nbd0
nbd --disconnect /dev/nbd0 ~ nbd-client -d /dev/nbd0
# virsh
snapshot-create-as vm monday --disk-only ~ vellum machine snapshot take vm@monday
snapshot-create vm ~ vellum machine snapshot take vm@SNAPSHOT
snapshot-list vm ~ vellum machine snapshot list vm
snapshot-revert vm monday ~ vellum machine snapshot restore vm@monday
snapshot-delete vm monday ~ vellum snapshot delete -n vm@monday
snapshot-info vm monday = machine show vm@monday
snapshot-current vm ~ vellum machine show vm@latest
snapshot-parent vm monday ~ vellum tree
vol-list default = list
vol-list = list
vol-info web --pool default = info web
vol-create-as default web 10G ~ vellum create web 10G
vol-clone web copy --pool default = clone web copy
vol-download web web.raw = export web web.raw
vol-upload web web.raw --pool default ~ vellum import web.raw web --update
vol-resize web 20G ~ vellum resize web 20G
vol-delete web --pool default ~ vellum rm -n web
pool-list --all ~ vellum stats
pool-define-as images dir ~ vellum init --store DIR
dominfo vm = machine show vm
domblklist vm --details = machine show vm
dumpxml vm = machine config vm
define vm.xml ~ vellum machine import vm.xml
undefine vm ~ vellum machine delete vm
attach-disk vm web vdb ~ vellum machine add-disk vm web
detach-disk vm web ~ vellum machine remove-disk vm web
blockcommit vm vda --active ~ vellum commit IMAGE
blockpull vm vda ~ vellum flatten IMAGE
blockresize vm /a.qcow2 20G ~ vellum resize IMAGE 20G
backup-begin vm ~ vellum backup push REPO --machine vm
checkpoint-create-as vm one ~ vellum diff
start vm ~ vellum machine start vm
shutdown vm ~ vellum machine stop vm
managedsave vm ~ vellum machine snapshot take vm@SNAPSHOT
# zfs and zpool
snapshot web@monday = snapshot take web@monday
snap web@monday = snapshot take web@monday
snapshot -r web@monday ~ vellum machine snapshot take MACHINE@monday
destroy web@monday ~ vellum rm -n web@monday
destroy -nv web@a%d ~ vellum rm -n web@a..@d
destroy -rv web@a%d ~ vellum rm -n web@a..@d
destroy web@a,b ~ vellum rm -n web@a web@b
destroy -r web ~ vellum rm -n web --with-snapshots
destroy web ~ vellum machine stop web
rm web@a%d ? vellum rm -n web@a..@d
rm -n web@a%d ? vellum rm -n web@a..@d
rollback web@monday ~ vellum snapshot restore web@monday
rollback -r web@monday ~ later snapshots
rollback web monday ~ vellum snapshot restore web@monday
delsnapshot web monday ~ vellum rm -n web@monday
qm list ~ vellum machine list
qm snapshot 100 before ~ vellum machine snapshot take 100@before
qm rollback 100 before ~ vellum machine snapshot restore 100@before
qm delsnapshot 100 before ~ vellum machine snapshot delete 100@before
qm disk import 100 disk.qcow2 local-lvm ~ vellum import DISK NAME
qm start 100 ~ vellum machine --help
vzdump 100 --storage local ~ vellum backup push REPO IMAGE
qmrestore a.vma 100 ~ vellum probe a.vma
list --format json ~ vellum list --json
backup backup repo web.raw ~ vellum backup push repo IMAGE --from-file web.raw
backup backup repo /srv/web.raw ~ vellum backup push repo IMAGE --from-file /srv/web.raw
backup init repo --no-password ~ vellum backup init repo --no-encryption
backup backup ~ vellum backup push REPO IMAGE
clone web@monday web-test = clone web@monday web-test
promote trial ~ vellum flatten trial
rename web www = rename web www
hold keep web@monday ~ vellum pin web@monday
release keep web@monday ~ vellum pin --off web@monday
release web@monday ~ vellum pin --off web@monday
holds web@monday ~ vellum info web@monday
bookmark web@monday web#monday ~ vellum pin web@monday
get -Hp used web ~ vellum info web
get all web ? vellum get web all
inherit owner web ~ vellum set web --unset owner
comment web text = describe web text
unset web owner = set web --unset owner
list -t snapshot = snapshot list
list -t snapshot -r web = snapshot list web
list -t all = list --snapshots
list -r web = list web
list -H -o name,size -S created = list -s created --reverse -H -o name,size
list -Ho name,added -s creation = list -Ho name,added -s creation
send -i @a web@b ~ vellum send web@a..@b
send -I web@a web@b ~ vellum send web@a..@b
send -i a web@b ~ vellum send web@a..@b
send -R web@b ~ vellum send web
send -cwL web@b = send web@b
receive web = receive --as web
recv web = receive --as web
recv --as web = receive --as web
receive -F web ~ vellum receive --update
umount /mnt/images ~ fusermount3 -u /mnt/images
scrub tank ~ vellum check --scrub
status ~ vellum stats
# restic, borg, PBS
snapshots ~ vellum backup list REPO
snapshots --json ~ vellum snapshot list
-r /mnt/b snapshots ~ vellum backup list /mnt/b
--repo /mnt/b forget --keep-last 3 ~ vellum backup forget -n /mnt/b --keep-last 3
init --repo /mnt/b ~ vellum backup init /mnt/b
prune ~ vellum gc -n
compact ~ vellum backup prune -n REPO
garbage-collect ~ vellum gc -n
unlock ~ vellum backup info REPO
find disk ~ vellum list
cat web ~ vellum export web -
dump web disk.img ~ vellum export web -
restore latest --target out ~ vellum backup restore REPO IMAGE@latest FILE
restore web@monday ~ vellum snapshot restore web@monday
restore x y z ~ vellum backup restore REPO POINT FILE
export latest out.raw ? vellum export IMAGE@latest out.raw
info latest ? vellum info IMAGE@latest
key passwd ~ vellum backup key passwd REPO
key list ~ vellum backup key list REPO
rebuild-index ~ vellum backup verify REPO --repair
repair index ~ vellum backup verify REPO --repair
copy web copy ~ vellum clone web copy
catalog shell ~ vellum mount DIR
benchmark ~ vellum measure FILE
stats web ~ vellum info web
snapshot protected update web@a true ~ vellum pin web@a
snapshot forget web@a ~ vellum snapshot delete -n
backup disk.img:/dev/vda ~ vellum import /dev/vda disk
backup /srv/disk.raw ~ vellum backup push REPO IMAGE --from-file /srv/disk.raw
backup -r /mnt/b list ~ vellum backup list /mnt/b
backup list --repo=/mnt/b web ~ vellum backup list /mnt/b web
backup snapshots /mnt/b = backup list /mnt/b
backup snapshots = backup list
backup rlist /mnt/b = backup list /mnt/b
backup check /mnt/b = backup verify /mnt/b
backup check /mnt/b --read-data = backup verify /mnt/b --read-data
backup check /mnt/b --read-data-subset=5% ~ vellum backup verify /mnt/b --read-data --subset 1/20
backup verify /mnt/b --read-data --subset 5% ~ --subset 1/20
backup stats /mnt/b = backup info /mnt/b
backup create /mnt/b web = backup push /mnt/b web
backup rcreate /mnt/b = backup init /mnt/b
backup extract /mnt/b web out.raw ~ vellum backup restore /mnt/b web out.raw
backup dump /mnt/b web disk ~ vellum backup restore /mnt/b web -
backup delete /mnt/b web@a ~ vellum backup forget -n /mnt/b web@a
backup rm /mnt/b web@a ~ vellum backup forget -n /mnt/b web@a
backup compact /mnt/b ~ vellum backup prune -n /mnt/b
backup unlock /mnt/b ~ vellum backup info /mnt/b
backup break-lock ~ vellum backup info
backup find /mnt/b x ~ vellum backup list /mnt/b
backup key change-passphrase /mnt/b ~ vellum backup key passwd /mnt/b
backup change-passphrase /mnt/b ~ vellum backup key passwd /mnt/b
backup rebuild-index /mnt/b ~ vellum backup verify /mnt/b --repair
backup umount /mnt/x ~ fusermount3 -u /mnt/x
backup serve /mnt/b ~ vellum serve --from /mnt/b
backup forget /mnt/b -l 7 ~ vellum backup forget -n /mnt/b --keep-last 7
# Other words and orders
create snapshot web@monday = snapshot take web@monday
take snapshot web@monday = snapshot take web@monday
snapshot create web@monday = snapshot take web@monday
snapshot create web monday = snapshot take web@monday
snapshot take web monday = snapshot take web@monday
create image web 10G = create web 10G
create machine vm = machine create vm
list snapshots web = snapshot list web
show snapshots web = snapshot list web
show snapshots = snapshot list
show web = info web
inspect web --json = info web --json
backup restore /mnt/b latest --target x ~ vellum backup restore /mnt/b IMAGE@latest FILE
delete snapshot web@monday ? vellum snapshot delete -n web@monday
rm image web ? vellum rm -n web
delete machine vm ? vellum machine delete vm
drop snapshot web@monday ~ vellum snapshot delete -n web@monday
del web ~ vellum rm -n web
purge web ~ vellum rm -n web
move web www ~ vellum rename web www
rename snapshot web@a b ~ vellum rename web@a b
restore snapshot web@a ~ vellum snapshot restore web@a
snapshot rollback web@a ~ vellum snapshot restore web@a
snapshot restore web monday ~ vellum snapshot restore web@monday
snapshot remove web@a ~ vellum snapshot delete -n web@a
snapshot destroy web a ~ vellum snapshot delete -n web@a
snapshot info web@a = info web@a
snapshot diff web@a web@b = diff web@a web@b
snapshot protect web@a = pin web@a
snapshot unprotect web@a ~ vellum pin --off web@a
snap ls web = snapshot ls web
snap rm web@a ~ vellum snapshot rm web@a
protect web = pin web
unpin web ~ vellum pin --off web
images --json = list --json
machines = machine list
image list = list
image rm web ~ vellum rm -n web
image resize web 2G ~ vellum resize web 2G
vm list = machine list
vm start vm1 ~ vellum machine start vm1
machine info vm = machine show vm
machine snapshot vm@monday = machine snapshot take vm@monday
fork web copy ~ vellum clone web copy
grow web +10G ~ vellum resize web +10G
merge trial ~ vellum commit trial
upload disk.raw web ~ vellum import disk.raw web
download web out.raw = export web out.raw
download web out.raw --force ~ vellum export web out.raw --force
fsck = check
verify ~ vellum check --read-data
df -h ~ vellum stats
history ~ vellum report growth
trim ~ --skip-free
mount web /mnt/x ~ vellum mount /mnt/x
store init = init
repo init /mnt/b = backup init /mnt/b
# Options of all commands come along, and names are one word each
--store /srv/a destroy web ~ `vellum --store /srv/a rm -n web`
destroy web@monday --store=/srv/a ~ `vellum --store=/srv/a rm -n web@monday`
--store /srv/a snapshot -c monday web = snapshot take web@monday --store /srv/a
snap web@monday -q --utc = snapshot take web@monday -q --utc
hold keep $(web) ~ vellum pin '$(web)'
";

fn line_words(line: &str) -> Vec<&str> {
    std::iter::once("vellum")
        .chain(line.split_whitespace())
        .collect()
}

fn os_words(line: &str) -> Vec<OsString> {
    line_words(line).into_iter().map(OsString::from).collect()
}

fn parses(words: &[String]) -> bool {
    match Arguments::try_parse_from(words) {
        Ok(_) => true,
        Err(error) => !error.use_stderr(),
    }
}

/// The advice on a line that is refused.
fn refusal(line: &str) -> Option<String> {
    parse_command_line(&os_words(line))
        .err()
        .and_then(|told| told.advice)
}

/// The advice on a line whose name is not there.
fn advice_on_unknown(line: &str) -> Option<String> {
    assert!(
        parse_command_line(&os_words(line)).is_ok(),
        "{line} is no line of ours"
    );
    let failure = StoreError::Lookup(LookupError::NoImage("x".to_owned()));
    explain_failure(CommandFailure::Store(failure), &os_words(line)).hint()
}

/// The line that is run for one.
fn line_run(line: &str) -> Option<Vec<String>> {
    let own: Vec<String> = line_words(line).into_iter().map(str::to_owned).collect();
    if parses(&own) {
        return Some(own);
    }
    read_foreign(&line_words(line))
        .into_iter()
        .find_map(|reading| match reading {
            ForeignReading::Same(words) if parses(&words) => Some(words),
            _ => None,
        })
}

fn listed_lines() -> impl Iterator<Item = (&'static str, char, &'static str)> {
    let lines = LINES
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| {
        let signs = ['=', '~', '?'].into_iter();
        let found = signs.filter_map(|sign| Some((line.find(&format!(" {sign} "))?, sign)));
        let (at, sign) = found.min().unwrap_or_else(|| panic!("{line} has no sign"));
        (&line[..at], sign, &line[at + 3..])
    })
}

#[test]
fn each_line_does_the_same_or_is_told_the_word_for_it() {
    for (line, sign, expected) in listed_lines() {
        if sign == '=' {
            let run = line_run(line).unwrap_or_else(|| panic!("{line} does nothing"));
            assert_eq!(run[1..].join(" "), expected, "{line}");
            let parsed = parse_command_line(&os_words(line));
            let is_help = |told: &crate::suggestion::Misunderstanding| !told.error.use_stderr();
            assert!(
                parsed.as_ref().err().is_none_or(is_help),
                "{line} is refused"
            );
            continue;
        }
        let advice = if sign == '~' {
            refusal(line)
        } else {
            advice_on_unknown(line)
        };
        let advice = advice.unwrap_or_else(|| panic!("{line}: no advice"));
        assert!(advice.contains(expected), "{line}: {advice}");
    }
    assert!(listed_lines().count() >= 250);
}

/// A word of another tool must not cost anything: what is run in its place is none of
/// the verbs and options that destroy, and a deletion is told by its preview.
#[test]
fn no_foreign_line_is_run_as_a_deletion() {
    for (line, _, _) in listed_lines() {
        let own: Vec<String> = line_words(line).into_iter().map(str::to_owned).collect();
        if parses(&own) {
            continue;
        }
        let ran = parse_command_line(&os_words(line)).is_ok();
        let run = line_run(line).filter(|_| ran).unwrap_or_default();
        assert!(
            run.iter().all(|word| is_harmless(word)),
            "{line} is {run:?}"
        );
    }
    for row in table_rows().filter(|row| row.sign == '=') {
        let own = row.ours.split(' ');
        assert!(
            own.clone().all(is_harmless),
            "{} = {}",
            row.theirs,
            row.ours
        );
    }
    for row in table_rows().filter(|row| row.sign != '=') {
        for word in ["rm", "forget", "prune", "gc", "snapshot delete"] {
            let commands = row
                .ours
                .split('`')
                .filter(|text| text.starts_with("vellum "));
            for command in
                commands.chain([row.ours.as_str()].into_iter().filter(|_| row.sign == '!'))
            {
                let is_verb = format!("{command} ").contains(&format!("{word} "))
                    && !command.contains(&format!("machine {word}"));
                assert!(
                    !is_verb || command.contains(" -n"),
                    "{}: {command}",
                    row.theirs
                );
            }
        }
    }
}

/// A line that a row is for.
fn sample_line(theirs: &str) -> String {
    let tokens = theirs
        .split(' ')
        .filter(|token| !token.starts_with('[') && !token.ends_with('…'));
    let word = |token: &str| {
        let first = token.split('|').next().unwrap_or_default();
        let mut word = first.to_owned();
        for (name, value) in [
            ("PERCENT", "5"),
            ("PARTS", "7"),
            ("PART", "1"),
            ("MIB", "10"),
            ("BYTES", "4096"),
            ("SIZE", "1G"),
            ("COUNT", "7"),
            ("FORMAT", "vmdk"),
            ("VERB", "list"),
        ] {
            word = word.replace(name, value);
        }
        let is_letter = placeholder_len(&word) == 0 && word.starts_with('-') && word.len() == 2;
        if is_letter { word } else { word.to_lowercase() }
    };
    let words = tokens.map(|token| match token.split_once('=') {
        Some((names, value)) if token.starts_with('-') => {
            let name = names.split('|').next().unwrap_or_default();
            format!("{name} {}", word(value))
        }
        _ => word(token),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn no_row_stands_behind_one_that_takes_its_lines() {
    for (nth, row) in table_rows().enumerate() {
        let line = sample_line(&row.theirs);
        let words = line_words(&line);
        let first =
            table_rows().position(|row| BoundWords::bind_line(&row.theirs, &words[1..]).is_some());
        assert_eq!(first, Some(nth), "{} by {line}", row.theirs);
    }
    assert!(table_rows().count() > 200);
}

/// Every command that advice names is one that the command line takes.
#[test]
fn advice_names_lines_that_are_understood() {
    let samples: Vec<String> = table_rows().map(|row| sample_line(&row.theirs)).collect();
    let lines = listed_lines()
        .map(|(line, ..)| line.to_owned())
        .chain(samples);
    for line in lines {
        if let Some(reading) = read_foreign(&line_words(&line)).first() {
            let ForeignReading::Advice(advice) = reading else {
                continue;
            };
            assert!(
                !advice.contains(['{', '}']) && !advice.contains("  "),
                "{line}: {advice}"
            );
            for command in advice.split('`').filter(|text| text.starts_with("vellum ")) {
                let command = command
                    .replace("KEY=VALUE", "compat=1.1")
                    .replace("MODE", "normal")
                    .replace("SIZE", "1G");
                let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
                assert!(parses(&words), "{line}: {command}");
            }
        }
    }
}

#[test]
fn every_row_has_a_sign_and_lines_of_ours_have_no_reading() {
    let rows = TABLE
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with(['#', ' ']));
    assert_eq!(rows.count(), table_rows().count());
    for line in [
        "frobnicate",
        "promote",
        "lits",
        "snapshot",
        "",
        "rm web",
        "snapshot take web@a",
    ] {
        assert_eq!(read_foreign(&line_words(line)), [], "{line}");
    }
}
