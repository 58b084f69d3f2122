"""Plugins do not affect the process: what they print, the signals that they raise, and the environment that they read
stay inside the guard."""

import ctypes
import os
import pathlib
import re
import subprocess
import sys

import pytest
from conftest import as_seen_here
from test_robustness import FOLDER, prints
from untried import has_other_users, untried

from iptc.language import plugins

# --- the names that plugins print with ---------------------------------------------------------------------------

OURS = {
    *"printf vprintf puts putchar putchar_unlocked wprintf vwprintf putwchar putwchar_unlocked perror psignal psiginfo herror".split(),
    *"warn warnx vwarn vwarnx err errx verr verrx error error_at_line dprintf vdprintf write".split(),
    *"exit _exit _Exit quick_exit abort assert_fail stdout stderr getenv".split(),
}
"""Functions that reach the streams, the end or the environment of the process. Each reference must lead to our
function."""
LOOKED_UP = re.compile(r"(get|free)(addrinfo|nameinfo|(host|net|serv|proto|pw|gr)(by|nam|uid|gid|ent)\w*)(_r)?")
"""Functions that look up names, and may wait for the network. Each reference must lead to our function too."""
GIVEN_A_STREAM = set(
    "fprintf vfprintf fputs fputs_unlocked fputc fputc_unlocked putc putc_unlocked fwrite fwrite_unlocked fflush"
    " fclose fopen fopen64 fgets rewind fread getline fgetc getc feof ferror clearerr fileno setvbuf".split()
)
"""Functions that use the stream that they are given."""
TO_MEMORY = set("sprintf snprintf vsprintf vsnprintf asprintf vasprintf sscanf vsscanf remove rename".split())


def declared_in_stdio():
    """Return the names of the functions and streams of <stdio.h>."""
    text = subprocess.run(
        ["gcc", "-E", "-P", "-D_GNU_SOURCE", "-"],
        input="#include <stdio.h>\n",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return set(re.findall(r"^extern [^(;]*?\b(\w+)\s*[(;]", text, re.MULTILINE))


def plain(symbol):
    """Return `printf` for `__printf_chk@GLIBC_2.3.4`."""
    name = symbol.partition("@")[0]
    if name.startswith("__isoc99_"):
        return name.removeprefix("__isoc99_")
    return re.sub(r"^__(\w+)_chk$", r"\1", name).replace("__assert_fail", "assert_fail")


def references(path):
    """Yield (offset, name) of all references in the library at *path*."""
    text = subprocess.run(["readelf", "-rW", path], capture_output=True, text=True, check=True).stdout
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 5 and re.fullmatch("[0-9a-f]{8,16}", words[0]) and words[2].startswith("R_"):
            yield int(words[0], 16), words[4]


def mappings():
    """Return {path: (first address, ranges)} of the files that this process has mapped. A range of zeros follows
    without a name."""
    found, names, last = {}, {}, (None, 0)
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        words = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in words[0].split("-"))
        path = words[5] if len(words) == 6 else last[0] if last[1] == start else None
        if path is not None and path.startswith("/"):
            if path not in names:
                names[path] = as_seen_here(path)
            path = names[path]
            found.setdefault(path, (start, []))[1].append((start, end))
        last = path, end
    return found


def loaded_plugins():
    """Yield the paths of iptables' plugins, after loading them, and of libxtables."""
    for folder in plugins.library_dirs():
        for path in sorted(pathlib.Path(folder).iterdir()):
            prefix, _, name = path.stem.partition("_")
            if path.suffix != ".so" or prefix not in ("libxt", "libipt", "libip6t"):
                continue
            family = 10 if prefix == "libip6t" else 2
            # a file with several names may be found by one of them only
            plugins.find_match(family, name), plugins.find_target(family, name)
            yield os.path.realpath(path)
    yield next(path for path in mappings() if os.path.basename(path).startswith("libxtables.so"))


def test_every_name_that_plugins_print_and_ask_with_leads_to_us():
    stdio = declared_in_stdio()
    assert {"printf", "puts", "stdout", "perror"} <= stdio
    paths = set(loaded_plugins())
    assert len(paths) > 80
    maps = mappings()
    ours = maps[os.path.realpath(plugins.__file__)][1]
    checked = set()
    for path in paths:
        start = maps[path][0]
        for offset, symbol in references(path):
            name = plain(symbol)
            if name in stdio and name not in OURS:
                assert name in GIVEN_A_STREAM | TO_MEMORY, f"{path} prints by {name}"
            if name in OURS - {"getenv"} or LOOKED_UP.fullmatch(name):
                value = ctypes.c_void_p.from_address(start + offset).value
                assert any(low <= value < high for low, high in ours), f"{path} reaches {symbol}"
                checked.add(name)
    assert {
        "printf",
        "puts",
        "putchar",
        "stdout",
        "stderr",
        "perror",
        "exit",
        "getaddrinfo",
        "getpwnam",
        "getgrgid",
    } <= checked


PLUGIN = r"""
#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xtables.h>
static const struct option options[] = {
	{"divide", 1, NULL, '1'}, {"kill", 1, NULL, '2'}, {"say", 1, NULL, '3'}, {"die", 1, NULL, '4'}, {"fault", 1, NULL, '5'},
	{"grow", 1, NULL, '6'}, {NULL}};
static int (*const by_pointer)(const char *, ...) = printf;
static FILE **const stream = &stdout;
static void listed(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vprintf(format, args);
	va_end(args);
}
static int parse(int c, char **argv, int invert, unsigned int *flags, const void *entry, struct xt_entry_match **match)
{
	int number = atoi(optarg);

	if (c == '1') (*match)->data[0] = 10 / number;
	if (c == '2') kill(getpid(), SIGFPE), (*match)->data[0] = 7;
	if (c == '3') {
		fprintf(stderr, "one %d\n", number); fputs("two\n", stderr); fputc('3', stderr); putc('\n', stderr);
		errno = ENOENT; perror("four"); warnx("five"); errno = ENOENT; warn("six");
	}
	/* as SNAT and DNAT of iptables 1.8.7 do */
	if (c == '6') *match = realloc(*match, number), (*match)->data[0] = 9;
	if (c == '4' && number == 1) abort();
	if (c == '4' && number == 2) _exit(3);
	if (c == '4' && number == 3) errx(4, "no");
	return 1;
}
static void save(const void *ip, const struct xt_entry_match *match)
{
	printf(" %d", 1 + match->data[1]); printf(" text"); puts(" line"); putchar('c'); fputs(" fputs", stdout); fputc('f', stdout); putc('p', stdout);
	fwrite(" fwrite", 1, 7, stdout); fprintf(stdout, " %s", "fprintf"); listed(" %d", 5); by_pointer(" pointer"); fputs(" stream", *stream);
	putchar_unlocked('u'); putc_unlocked('v', stdout); fflush(stdout); printf(" --divide %d", match->data[0]);
}
static struct xtables_match plugin = {
	.name = "noisy", .version = XTABLES_VERSION, .family = NFPROTO_UNSPEC, .size = XT_ALIGN(8),
	.userspacesize = XT_ALIGN(8), .parse = parse, .save = save, .extra_opts = options,
};
static void __attribute__((constructor)) start(void) { xtables_register_match(&plugin); }
"""


@pytest.fixture(
    scope="module", params=[["-O2", "-D_FORTIFY_SOURCE=2"], ["-O0", "-U_FORTIFY_SOURCE"]], ids=["fortified", "plain"]
)
def noisy(request, tmp_path_factory):
    """Return folders of plugins, one of them with a plugin that prints, divides and ends the process in every way."""
    folder = tmp_path_factory.mktemp("noisy")
    (folder / "noisy.c").write_text(PLUGIN)
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-w", *request.param, "-o", folder / "libxt_noisy.so", folder / "noisy.c"],
        check=True,
    )
    return f"{folder}:{FOLDER}"


def test_a_plugin_that_takes_its_payload_for_an_allocation_gets_it_as_long_as_it_is(noisy):
    assert prints(
        """
        import iptc
        print("--divide 9" in str(iptc.Rule.from_args("-m noisy --grow 40")))
        match = iptc.Rule().create_match("noisy")
        match.grow = "40"
        for refused in (iptc.Rule.from_args, lambda text: setattr(match, "grow", "4096")):
            try:
                refused("-m noisy --grow 4096")
            except iptc.ParameterError as error:
                print(error)
        """,
        XTABLES_LIBDIR=noisy,
    ).splitlines() == ["True", *["the extension asks for a longer structure"] * 2]


def test_whatever_a_plugin_prints_with_is_caught(noisy):
    assert prints(
        """
        import warnings, iptc
        match = iptc.Rule().create_match("noisy")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            match.say = "1"
        print([str(warning.message) for warning in caught])
        match.divide = "2"
        rule = iptc.Rule.from_args("-m noisy --divide 2 -j ACCEPT")
        print(repr(str(rule)))
        for number in "123":
            try:
                match.die = number
            except iptc.ParameterError as error:
                print(error)
    """,
        XTABLES_LIBDIR=noisy,
    ).splitlines() == [
        "['one 1', 'two', '3', 'four: No such file or directory', 'five', 'six: No such file or directory']",
        repr("-m noisy 1 text line\nc fputsfp fwrite fprintf 5 pointer streamuv --divide 5 -j ACCEPT"),
        "the extension gave up (abort)",
        "the extension gave up (exit status 3)",
        "no: the extension gave up (exit status 4)",
    ]


# --- others in the process ---------------------------------------------------------------------------------------

TALKER = r"""
#include <pthread.h>
#include <stdio.h>
static volatile int ended;
static volatile long lines;
static pthread_t thread;
static void *talk(void *unused)
{
	while (!ended || lines < 20000) {
		printf("out %ld", lines); puts(" end"); fprintf(stderr, "err %ld end\n", lines);
		lines++;
	}
	return NULL;
}
void talk_begin(void) { pthread_create(&thread, NULL, talk, NULL); }
long talk_end(void) { ended = 1; pthread_join(thread, NULL); fflush(stdout); return lines; }
"""


def test_a_c_thread_that_prints_beside_rules_and_saved_tables(host, tmp_path):
    rules = [
        "-A INPUT -s 10.0.0.0/8 -p tcp -m tcp --dport 22 -j ACCEPT",
        "-A INPUT -p udp -m multiport --dports 53,123 -j DROP",
        '-A INPUT -m comment --comment "a b" -j LOG --log-prefix "x "',
    ] * 20
    host.restore("\n".join(["*filter", *rules, "COMMIT", ""]))
    (tmp_path / "talker.c").write_text(TALKER)
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", tmp_path / "talker.so", tmp_path / "talker.c"], check=True)
    program = """
import ctypes, sys, warnings, iptc
warnings.simplefilter("error")
talker = ctypes.CDLL(sys.argv[1])
def saved():
    return [line for line in iptc.Table("filter").save().split("\\n") if not line.startswith("#")]
rules = iptc.Chain(iptc.Table("filter"), "INPUT").rules
texts = [str(rule) for rule in rules]
whole = saved()
talker.talk_begin()
wrong = 0
for _ in range(150):
    wrong += [str(rule) for rule in rules] != texts
    wrong += saved() != whole
    for refused in ("--dport 99999", "--nope 1"):
        try:
            iptc.Rule.from_args(f"-p tcp {refused}")
        except iptc.ParameterError as error:
            wrong += "end" in str(error)
count = talker.talk_end()
print("done", wrong, count)
"""
    with open(tmp_path / "out", "w+") as out, open(tmp_path / "err", "w+") as err:
        subprocess.run([sys.executable, "-c", program, tmp_path / "talker.so"], stdout=out, stderr=err, check=True)
        out.seek(0)
        err.seek(0)
        *printed, last = out.read().splitlines()
        count = int(last.split()[2])
        assert last == f"done 0 {count}"
        assert printed == [f"out {i} end" for i in range(count)]
        assert err.read().splitlines() == [f"err {i} end" for i in range(count)]


HANDLER = r"""
#include <signal.h>
#include <string.h>
static volatile int got, status;
static void on_signal(int number, siginfo_t *info, void *context) { got++; status = info->si_code; }
void handle(void) { struct sigaction ours; memset(&ours, 0, sizeof(ours)); ours.sa_sigaction = on_signal; ours.sa_flags = SA_SIGINFO; sigaction(SIGFPE, &ours, 0); }
int in_place(void) { struct sigaction now; sigaction(SIGFPE, 0, &now); return now.sa_sigaction == on_signal; }
int gotten(void) { return got; }
"""


def test_the_programs_own_handler_of_sigfpe_stays(noisy, tmp_path):
    (tmp_path / "handler.c").write_text(HANDLER)
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O2", "-o", tmp_path / "handler.so", tmp_path / "handler.c"], check=True
    )
    assert prints(
        f"""
        import ctypes, os, signal, iptc
        handler = ctypes.CDLL({str(tmp_path / "handler.so")!r})
        def use():
            match = iptc.Rule().create_match("noisy")
            for value in ("0", "2"):
                try:
                    match.divide = value
                except iptc.ParameterError as error:
                    print(error, value)
                try:
                    iptc.Rule.from_args(f"-m noisy --divide {{value}} -j ACCEPT")
                except iptc.ParameterError as error:
                    print(error, value)
            match.kill = "1"
            len(signal.Signals)     # a call, in which Python runs its handler
            str(iptc.Rule.from_args("-m noisy --kill 1 -j ACCEPT"))
            str(iptc.Rule.from_args("-m limit --limit 5/sec -m hashlimit --hashlimit-upto 5/sec --hashlimit-name x"))
        handler.handle()
        os.kill(os.getpid(), signal.SIGFPE)
        print(handler.gotten(), handler.in_place())
        use()
        print(handler.gotten(), handler.in_place())
        os.kill(os.getpid(), signal.SIGFPE)
        print(handler.gotten())
        got = []
        signal.signal(signal.SIGFPE, lambda *given: got.append(given[0]))
        use()
        os.kill(os.getpid(), signal.SIGFPE)
        print(len(got), handler.gotten())
        signal.signal(signal.SIGFPE, signal.SIG_IGN)
        use()
        os.kill(os.getpid(), signal.SIGFPE)
        print(len(got), handler.gotten())
    """,
        XTABLES_LIBDIR=noisy,
    ).splitlines() == [
        "1 1",
        *(refusals := ["the extension divided by zero or overflowed on these values 0"] * 2),
        "3 1",
        "4",
        *refusals,
        "3 4",
        *refusals,
        "3 4",
    ]


def test_sigfpe_that_nobody_handles_ends_the_process(noisy):
    done = subprocess.run(
        [sys.executable, "-c", "import iptc; iptc.Rule().create_match('noisy').kill = '1'"],
        env={**os.environ, "XTABLES_LIBDIR": noisy},
    )
    assert done.returncode == -8


def test_only_plugins_that_divide_take_sigfpe():
    """As objdump shows it, on machines where a division can raise SIGFPE."""
    machine = os.uname().machine
    if untried("" if machine == "x86_64" else f"{machine} has no known instruction whose division raises SIGFPE"):
        return
    traced = """
import sys
from iptc.language import plugins
found = [(name, plugins.find_match(2, name) or plugins.find_target(2, name)) for name in sys.argv[1:]]
print([name for name, plugin in found if plugin and plugin.divides])
"""
    names = {
        path.stem.partition("_")[2]: path
        for path in pathlib.Path(FOLDER).iterdir()
        if path.name.startswith(("libxt_", "libipt_"))
    }
    done = subprocess.run([sys.executable, "-c", traced, *names], capture_output=True, text=True, check=True)
    code = {
        name: subprocess.run(
            ["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True
        ).stdout
        for name, path in names.items()
    }
    dividing = [name for name, listing in code.items() if re.search(r"\si?div[bwlq]?\s", listing)]
    assert done.stdout.strip() == str(dividing) and 0 < len(dividing) < len(names) / 2


# --- rights ------------------------------------------------------------------------------------------------------

USES = [
    'iptc.Rule.from_args("-p tcp --dport 22")',
    'str(iptc.Rule.from_args("-j ACCEPT"))',
    'iptc.Rule().create_match("tcp")',
    'iptc.easy.encode_iptc_rule({"tcp": {"dport": "22"}, "target": "ACCEPT"})',
    'iptc.restore("*filter\\n-A INPUT -p tcp -j ACCEPT\\nCOMMIT\\n", test=True)',
    'str(iptc.Chain(iptc.Table("filter"), "INPUT").rules[0])',
]


@pytest.mark.needs("other users")
def test_a_real_user_who_is_not_the_effective_one(host):
    """libxtables would end the process in this case."""
    host.iptables("-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT")
    printed = prints(f"""
        import os, iptc
        def tried():
            for use in {USES!r}:
                try:
                    eval(use)
                    yield "works"
                except iptc.IPTCError as error:
                    yield type(error).__name__
        iptc.Chain(iptc.Table("filter"), "INPUT").rules
        os.setresuid(65534, 0, 0)
        print(set(tried()))
        os.setresuid(0, 0, 0)
        print(set(tried()))
        os.setresuid(65534, 0, 0)
        print(set(tried()))
    """).splitlines()
    assert printed == ["{'AccessDenied'}", "{'works'}", "{'works'}"]


def test_a_program_with_more_rights_than_its_user_takes_no_plugins_from_the_environment(noisy, tmp_path):
    program = """
import iptc
from iptc.language import plugins
from iptc.lock import lock_path
print(plugins.library_dirs(), plugins.find_match(2, "noisy") is not None, lock_path())
"""
    environment = {**os.environ, "IPTABLES_LIBDIR": noisy, "XTABLES_LOCKFILE": str(tmp_path / "lock")}
    for name in ("XTABLES_LIBDIR", "IPTABLES_LIBDIR"):
        environment = {**os.environ, "XTABLES_LOCKFILE": str(tmp_path / "lock"), name: noisy}
        for raised in (False, True) if has_other_users() else (False,):
            # with another effective group the kernel sets AT_SECURE, as for a set-group-ID program
            done = subprocess.run(
                [sys.executable, "-c", program],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
                preexec_fn=(lambda: os.setegid(65534)) if raised else None,
            )
            folders = [FOLDER] if raised else noisy.split(":")
            assert (
                done.stdout.strip() == f"{folders} {not raised} {'/run/xtables.lock' if raised else tmp_path / 'lock'}"
            )
            assert done.stderr == ""
