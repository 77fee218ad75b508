#!/usr/bin/env bash
# A real Kafka broker for tests and demos: one node or several, KRaft, free ports on loopback, data folders of their own, a bounded
# heap each.
#
#   scripts/kafka.sh install                  fetch the broker unless it is there already
#   scripts/kafka.sh start [OPTIONS]          start it, or start the same one again; prints TIDEMILL_BOOTSTRAP=HOST:PORT
#   scripts/kafka.sh stop [--keep]            stop it, and remove its data if `start` made the folder
#   scripts/kafka.sh kill                     end it with SIGKILL; its data stays, and `start` starts it again
#   scripts/kafka.sh status                   say where it runs; exit 1 if it does not
#   scripts/kafka.sh env                      print the variables of the running broker, to be evaluated
#   scripts/kafka.sh run [OPTIONS] -- CMD...  start one for CMD, stop it after, exit as CMD did
#   scripts/kafka.sh tool NAME [ARGS...]      run one of Kafka's own tools: topics, console-consumer, consumer-groups, ...
#   scripts/kafka.sh mode                     say which broker would be used: bootstrap, jars or docker
#
#   --state DIR       where process id, port, log and settings are kept; brokers with different folders run side by side
#   --data DIR        keep the data here instead of in a temporary folder
#   --port-file FILE  write the port to FILE
#   --set KEY=VALUE   one more setting of the broker (again for more)
#   --nodes N         that many nodes instead of one, each broker and controller. With three or more, each partition has three copies,
#                     of which two must have a record
#   --node N          start, stop and kill: only this node of several, counted from 1
#   --proxy PORT      a second listener, which is told to its clients as PORT: there a proxy of yours listens. It finds the listener's
#                     own port in the file `behind` of the state folder. With several nodes a port each, separated by commas, and
#                     the files `node-N/behind`
#
# The broker is, in this order: the one that TIDEMILL_BOOTSTRAP names (nothing is started or stopped then), the pinned jars from
# Maven Central on Java 17, the pinned container image. `run` sets TIDEMILL_BOOTSTRAP and TIDEMILL_KAFKA_STATE for CMD, and with
# both set the commands act on the broker that `run` started, so that a test can stop it and start it again.
#
# TIDEMILL_CACHE        the cache folder, ~/.cache/tidemill by default
# TIDEMILL_KAFKA_HOME   the state folder when --state is not given, `run` in the cache folder by default
# TIDEMILL_KAFKA_HEAP   the broker's largest heap, 512m by default, and 256m for each of several nodes
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$here/kafka/pom.xml")
image=apache/kafka:$version
cache=${TIDEMILL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tidemill}
libs=$cache/kafka-$version/libs
ready_seconds=60
stop_seconds=30

say() {
    echo "kafka.sh: $*" >&2
}

die() {
    say "$@"
    exit 1
}

usage() {
    sed -n '2,/^set /s/^#\{1,\} \{0,1\}//p' "${BASH_SOURCE[0]}"
}

# ---- what there is to run a broker with ------------------------------------------------------------------------------

java=java
[[ -n ${JAVA_HOME:-} && -x $JAVA_HOME/bin/java ]] && java=$JAVA_HOME/bin/java

java_is_new_enough() {
    local major
    major=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1) || return 1
    [[ -n $major ]] && ((major >= 17))
}

docker_answers() {
    command -v docker >/dev/null && docker info >/dev/null 2>&1
}

# Prints `bootstrap`, `jars` or `docker`, or says what is missing.
choose_mode() {
    local missing=""
    if is_foreign; then
        echo bootstrap
        return
    fi
    java_is_new_enough || missing="Java 17"
    [[ -d $libs ]] || command -v mvn >/dev/null || missing=${missing:+$missing and }Maven
    if [[ -z $missing ]]; then
        echo jars
    elif docker_answers; then
        echo docker
    else
        die "no broker: $missing (Debian: openjdk-17-jre-headless maven; or start Docker, or set TIDEMILL_BOOTSTRAP=host:port)"
    fi
}

sha256() {
    if command -v sha256sum >/dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi
}

# Whether FOLDER holds the pinned jars, each with its pinned bytes, and no other.
jars_are_pinned() {
    [[ -d $1 ]] || return 1
    local found=("$1"/*) pinned
    pinned=$(wc -l <"$here/kafka/jars.sha256")
    ((${#found[@]} == pinned)) && (cd "$1" && sha256 -c "$here/kafka/jars.sha256" >/dev/null 2>&1)
}

install_jars() {
    jars_are_pinned "$libs" && return
    command -v mvn >/dev/null || die "the cached jars are not the pinned ones, and Maven is missing to fetch them again: $libs"
    say "fetching Kafka $version"
    local work
    mkdir -p "${libs%/*}"
    work=$(mktemp -d "${libs%/*}/fetch.XXXXXX")
    if ! mvn -B -q -ntp -Dstyle.color=never -f "$here/kafka/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$work/libs" >&2; then
        rm -rf "$work"
        die "Maven could not fetch the jars of Kafka $version (is Maven Central reachable?)"
    fi
    if ! jars_are_pinned "$work/libs"; then
        (cd "$work/libs" && sha256 -c "$here/kafka/jars.sha256" 2>/dev/null | grep -v ': OK$') >&2 || true
        rm -rf "$work"
        die "the jars that Maven fetched are not the pinned ones (scripts/kafka/jars.sha256)"
    fi
    # Moved in whole, so that another process sees all of them or none.
    if ! jars_are_pinned "$libs"; then
        rm -rf "$libs"
        mv "$work/libs" "$libs"
    fi
    rm -rf "$work"
}

install_broker() {
    case $1 in
    jars) install_jars ;;
    docker) docker image inspect "$image" >/dev/null 2>&1 || docker pull "$image" >&2 ;;
    *) ;;
    esac
}

# ---- the state of a broker -------------------------------------------------------------------------------------------

# In the state folder of a node: pid or container, port, controller, behind and proxy (the second listener's port, and that of the
# proxy before it), data (the folder), owned (present when the data is ours to remove), settings (added by --set), server.properties,
# broker.log and the log of the start before. The state folder of a broker is that of its only node; where there are several, it
# holds `nodes`, their number, and their folders `node-1`, `node-2`, ... In what follows $state is the folder of the node in
# question, and $home that of the broker.

# The folders of the nodes that a command is about, one a line.
folders() {
    if [[ -n $node_option ]]; then
        echo "$home/node-$node_option"
    else
        all_folders
    fi
}

# The folders of all nodes.
all_folders() {
    local number
    if [[ ! -f $home/nodes ]]; then
        echo "$home"
        return
    fi
    for ((number = 1; number <= $(<"$home/nodes"); number++)); do
        echo "$home/node-$number"
    done
}

# each COMMAND...: runs a function for each node that the command is about.
each() {
    local state
    while IFS= read -r state; do
        "$@" </dev/null
    done < <(folders)
}

# Whether one of the nodes runs.
any_is_running() {
    local state
    while IFS= read -r state; do
        ! is_running || return 0
    done < <(folders)
    return 1
}

# recall NAME, remember NAME VALUE
recall() {
    [[ -f $state/$1 ]] && cat "$state/$1"
}

remember() {
    printf '%s\n' "$2" >"$state/$1"
}

# Whether the broker in question is one that somebody else runs.
is_foreign() {
    [[ -n ${TIDEMILL_BOOTSTRAP:-} && -z $state_option && -z ${TIDEMILL_KAFKA_STATE:-} ]]
}

# What a process was started with, each argument followed by a space; nothing if it does not live. Out of /proc where there is
# one, because a slim image has no `ps`.
arguments_of() {
    if [[ -d /proc/self ]]; then
        tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" || true
    else
        ps -ww -o args= -p "$1" 2>/dev/null || true
    fi
}

# The children of a process, one a line.
children_of() {
    local stat process fields
    if [[ ! -d /proc/self ]]; then
        pgrep -P "$1" 2>/dev/null || true
        return
    fi
    for stat in /proc/[0-9]*/stat; do
        fields=""
        # Some have ended since they were listed.
        read -r -d '' fields 2>/dev/null <"$stat" || [[ -n $fields ]] || continue
        # `ID (NAME) STATE PARENT ...`: a name may hold anything, brackets too.
        fields=${fields##*) }
        fields=${fields#* }
        if [[ ${fields%% *} == "$1" ]]; then
            process=${stat%/stat}
            echo "${process##*/}"
        fi
    done
}

# Whether the recorded process lives and is this broker: process ids are used again.
is_running() {
    local id
    if id=$(recall container); then
        [[ $(docker inspect -f '{{.State.Running}}' "$id" 2>/dev/null) == true ]]
    elif id=$(recall pid); then
        [[ $(arguments_of "$id") == *"$state/server.properties"* ]]
    else
        return 1
    fi
}

bootstrap() {
    if [[ -n ${TIDEMILL_BOOTSTRAP:-} && -z $state_option ]]; then
        echo "$TIDEMILL_BOOTSTRAP"
    elif any_is_running; then
        addresses
    else
        return 1
    fi
}

# The addresses of all nodes, separated by commas.
addresses() {
    local state list=""
    while IFS= read -r state; do
        list+=,127.0.0.1:$(recall port)
    done < <(all_folders)
    echo "${list#,}"
}

# free_ports COUNT: ports that nobody listens on. Not from the range that the kernel takes the ports of outgoing connections from: a client
# that tries to reconnect to a stopped broker in that range can, in time, be given that very port, and connect to itself.
free_ports() {
    python3 - "$1" <<'PYTHON'
import random, socket, sys

low = 32768
try:
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        low = int(file.read().split()[0])
except OSError:
    pass
candidates = range(15000, low) if low > 16000 else range(15000, 65000)
taken = []
while len(taken) < int(sys.argv[1]):
    listener = socket.socket()
    try:
        listener.bind(("127.0.0.1", random.choice(candidates)))
        taken.append(listener)
    except OSError:
        listener.close()
print(*(listener.getsockname()[1] for listener in taken))
PYTHON
}

# The settings of a node, one `key=value` a line. LISTEN is the address to bind, empty for all. The short session is for starting
# again after a kill: until the killed broker's session has run out, the controller takes the new one for an impostor.
settings() {
    local listen=$1 port controller voters count copies insync behind proxied="" advertised="" protocol=""
    port=$(recall port)
    controller=$(recall controller)
    voters=$(voters)
    count=$(all_folders | wc -l)
    copies=$((count < 3 ? count : 3))
    insync=$((copies > 1 ? copies - 1 : 1))
    if behind=$(recall behind); then
        proxied=,PROXIED://127.0.0.1:$behind
        advertised=,PROXIED://127.0.0.1:$(recall proxy)
        protocol=,PROXIED:PLAINTEXT
    fi
    cat <<SETTINGS
process.roles=broker,controller
node.id=$(number_of "$state")
controller.quorum.voters=$voters
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://$listen:$port,CONTROLLER://127.0.0.1:$controller$proxied
advertised.listeners=PLAINTEXT://127.0.0.1:$port$advertised
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT$protocol
inter.broker.listener.name=PLAINTEXT
auto.create.topics.enable=false
default.replication.factor=$copies
min.insync.replicas=$insync
offsets.topic.replication.factor=$copies
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=$copies
transaction.state.log.min.isr=$insync
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=$copies
share.coordinator.state.topic.min.isr=$insync
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=4000
group.consumer.min.heartbeat.interval.ms=100
group.consumer.heartbeat.interval.ms=500
log.cleaner.dedupe.buffer.size=16777216
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
SETTINGS
    cat "$home/settings" 2>/dev/null || true
}

# number_of FOLDER: the number of the node with this state folder.
number_of() {
    if [[ $1 == "$home" ]]; then echo 1; else echo "${1##*/node-}"; fi
}

# Who decides which controller leads: all of them.
voters() {
    local state list=""
    while IFS= read -r state; do
        list+=,$(number_of "$state")@127.0.0.1:$(recall controller)
    done < <(all_folders)
    echo "${list#,}"
}

# ---- start -----------------------------------------------------------------------------------------------------------

# Runs a class that ends soon.
short_jvm() {
    "$java" -Xmx256m -XX:TieredStopAtLevel=1 -XX:-UsePerfData -Djava.awt.headless=true \
        -Dlog4j2.configurationFile="file:$here/kafka/log4j2-tools.properties" -cp "$libs/*" "$@"
}

format_data() {
    local data=$1
    [[ -f $data/meta.properties ]] && return
    short_jvm kafka.tools.StorageTool format -t "$(<"$home/cluster")" -c "$state/server.properties" >"$state/broker.log" 2>&1
}

# The data folder of a node and what is to be read before its start.
prepare_jars() {
    local data
    if ! data=$(recall data) || [[ ! -d $data ]]; then
        data=$(mktemp -d "${TMPDIR:-/tmp}/tidemill-kafka.XXXXXX")
        remember data "$data"
        remember owned yes
    fi
    {
        settings 127.0.0.1
        echo "log.dirs=$data"
    } >"$state/server.properties"
    [[ ! -f $state/broker.log ]] || mv "$state/broker.log" "$state/broker.log.before"
    format_data "$data"
}

launch_jars() {
    local away=(nohup)
    command -v setsid >/dev/null && away=(setsid)
    # In a session of its own, so that a Ctrl-C reaches the command that uses the broker and not the broker itself.
    "${away[@]}" "$java" -Xmx"$heap" -XX:+ExitOnOutOfMemoryError -XX:-UsePerfData -Djava.awt.headless=true \
        -Dlog4j2.configurationFile="file:$here/kafka/log4j2.properties" -cp "$libs/*" \
        kafka.Kafka "$state/server.properties" </dev/null >>"$state/broker.log" 2>&1 &
    remember pid $!
    disown
}

# A container is prepared by its image.
prepare_docker() {
    :
}

launch_docker() {
    local id line key environment=() port
    if id=$(recall container); then
        docker start "$id" >/dev/null
        return
    fi
    port=$(recall port)
    while IFS= read -r line; do
        key=${line%%=*}
        key=${key//./_}
        environment+=(-e "KAFKA_$(tr '[:lower:]' '[:upper:]' <<<"$key")=${line#*=}")
    done < <(settings "")
    id=$(docker run -d -p "127.0.0.1:$port:$port" -e "KAFKA_HEAP_OPTS=-Xmx$heap" "${environment[@]}" "$image") || return 1
    remember container "$id"
}

# The log of the last start: its first errors, which the messages of the shutdown bury, and its end.
broken_log() {
    local id log
    if id=$(recall container); then
        log=$(docker logs "$id" 2>&1) || true
    else
        log=$(cat "$state/broker.log" 2>/dev/null) || true
    fi
    grep -m 4 'ERROR\|Exception' <<<"$log" | cut -c 1-400 || true
    echo "..."
    tail -n 20 <<<"$log" | cut -c 1-400
}

# Starts the nodes with these state folders on their recorded ports, and waits until each answers. A quorum needs more than one of
# its nodes to answer at all, so all are started before the first is waited for.
launch() {
    local mode=$1 state pid preparing=() process
    shift
    for state in "$@"; do
        "prepare_$mode" &
        preparing+=($!)
    done
    for process in "${preparing[@]}"; do
        wait "$process" || return 1
    done
    for state in "$@"; do
        "launch_$mode" || return 1
    done
    for state in "$@"; do
        pid=""
        [[ $mode == jars ]] && pid=$(recall pid)
        python3 "$here/kafka/ready.py" "127.0.0.1:$(recall port)" "$ready_seconds" "$#" ${pid:+"$pid"} || return
    done
}

# What has to be known before the first start of nodes that have no ports yet.
assign_ports() {
    local state ports proxies=() number=0
    [[ -f $home/cluster ]] || head -c 16 /dev/urandom | base64 | tr '+/' '__' | cut -c 1-22 | sed 's/^-/_/' >"$home/cluster"
    IFS=, read -ra proxies <<<"$proxy_option"
    while IFS= read -r state; do
        mkdir -p "$state"
        read -ra ports < <(free_ports 3)
        remember port "${ports[0]}"
        remember controller "${ports[1]}"
        if [[ -n $proxy_option ]]; then
            remember behind "${ports[2]}"
            remember proxy "${proxies[number]:-}"
        fi
        number=$((number + 1))
    done < <(all_folders)
}

# What is asked of a broker that is started for the first time.
plan() {
    mkdir -p "$home"
    home=$(cd "$home" && pwd -P)
    state=$home
    if ((${#set_options[@]} > 0)); then printf '%s\n' "${set_options[@]}" >"$home/settings"; fi
    ((nodes_option == 1)) || [[ -f $home/nodes ]] || remember nodes "$nodes_option"
    if [[ -n $data_option ]]; then
        mkdir -p "$data_option"
        remember data "$(cd "$data_option" && pwd)"
        rm -f "$state/owned"
    fi
}

start() {
    local mode attempt answer=0 ports_are_new="" log="" waiting=() state=$home
    if is_foreign; then
        say "using the broker that TIDEMILL_BOOTSTRAP names"
        finish_start
        return
    fi
    plan
    while IFS= read -r state; do
        is_running || waiting+=("$state")
    done < <(folders)
    state=$home
    if ((${#waiting[@]} == 0)); then
        say "runs already"
        finish_start
        return
    fi
    if recall container >/dev/null; then mode=docker; else mode=$(choose_mode); fi
    [[ $mode != docker || -z $data_option$proxy_option && ! -f $home/nodes ]] ||
        die "--data, --nodes and --proxy need the broker from jars, not from a container"
    [[ -z $data_option || ! -f $home/nodes ]] || die "--data is for a broker of one node"
    install_broker "$mode"
    for attempt in 1 2 3; do
        if [[ ! -f ${waiting[0]}/port ]]; then
            assign_ports
            ports_are_new=yes
        fi
        for state in "${waiting[@]}"; do rm -f "$state/pid"; done
        answer=0
        launch "$mode" "${waiting[@]}" || answer=$?
        ((answer != 0)) || break
        # Somebody took a port between our choice and the start: choose others.
        log=""
        for state in "${waiting[@]}"; do log+=$(broken_log)$'\n'; done
        if [[ -z $ports_are_new || $attempt == 3 || ! $log =~ "already in use"|"already allocated" ]]; then
            say "the broker did not start; from its log:"
            echo "$log" >&2
            each end_broker KILL
            [[ -z $ports_are_new ]] || forget_broker
            exit 1
        fi
        each end_broker KILL
        forget_broker
        plan
    done
    finish_start
}

finish_start() {
    if [[ -n $port_file ]]; then
        local address
        address=$(bootstrap)
        address=${address%%,*}
        printf '%s\n' "${address##*:}" >"$port_file.part"
        mv "$port_file.part" "$port_file"
    fi
    echo "TIDEMILL_BOOTSTRAP=$(bootstrap)"
}

# ---- stop ------------------------------------------------------------------------------------------------------------

# Ends a node with SIGNAL and waits until it is gone.
end_broker() {
    local signal=$1 id tick
    if ! is_running; then
        rm -f "$state/pid"
    elif id=$(recall container); then
        if [[ $signal == KILL ]]; then docker kill "$id"; else docker stop -t "$stop_seconds" "$id"; fi >/dev/null
    else
        id=$(recall pid)
        kill -s "$signal" "$id" 2>/dev/null || true
        for ((tick = 0; tick < stop_seconds * 20; tick++)); do
            is_running || break
            sleep 0.05
        done
        if is_running; then
            say "did not stop within $stop_seconds s: ending it with SIGKILL"
            kill -s KILL "$id" 2>/dev/null || true
            while is_running; do sleep 0.05; done
        fi
        rm -f "$state/pid"
    fi
}

# Removes the data of a node if it is ours, and with it the ports: the next start makes a new one.
forget_data() {
    local id
    if id=$(recall container); then
        docker rm -fv "$id" >/dev/null 2>&1 || true
    elif [[ -f $state/owned ]]; then
        rm -rf "$(recall data)"
    elif recall data >/dev/null; then
        return
    fi
    rm -f "$state"/{container,owned,data,port,controller,behind,proxy}
}

# The same of all nodes, and what they have in common.
forget_broker() {
    each forget_data
    # The data that is not ours to remove is to be found again, at the same address.
    [[ -f $home/port ]] || rm -f "$home"/{settings,cluster}
    if [[ -f $home/nodes ]]; then rm -rf "$home"/node-*; fi
    rm -f "$home/nodes"
}

stop() {
    if is_foreign; then
        say "TIDEMILL_BOOTSTRAP names a broker that is not ours: left as it is"
        return
    fi
    end_all
}

# Ends the nodes, and removes what is ours to remove. A single node of several comes back to the others: its data stays.
end_all() {
    local signal=TERM
    # The last nodes of several would wait for a quorum that there is no more. Whose data goes has nothing to lose.
    [[ -n $keep || ! -f $home/nodes ]] || signal=KILL
    [[ -z $node_option ]] || signal=TERM
    each end_broker "$signal"
    [[ -n $keep$node_option ]] || forget_broker
}

# ---- run -------------------------------------------------------------------------------------------------------------

# Sends SIGNAL to a process and all its descendants: cargo does not hand a signal on to the tests that it runs.
signal_tree() {
    local signal=$1 process=$2 child
    for child in $(children_of "$process"); do
        signal_tree "$signal" "$child"
    done
    kill -s "$signal" "$process" 2>/dev/null || true
}

# Waits until a process has ended, at most SECONDS, or until another signal comes.
await_end() {
    local process=$1 tick seen=$signals
    for ((tick = 0; tick < $2 * 10; tick++)); do
        kill -0 "$process" 2>/dev/null && ((signals == seen)) || return 0
        sleep 0.1
    done
}

# The traps of `run`: they look unused to a linter.
# shellcheck disable=SC2317,SC2329
clean_up() {
    local status=$?
    trap '' INT TERM HUP
    end_all
    if [[ -n $state_is_ours && -z $keep ]]; then rm -rf "$home"; fi
    exit "$status"
}

run() {
    (($# > 0)) || die "run: no command given; write it after --"
    if [[ -n ${TIDEMILL_BOOTSTRAP:-} && -z $state_option ]]; then
        exec "$@"
    fi
    signals=0
    last=""
    state_is_ours=""
    local child status=0
    if [[ -z $state_option && -z ${TIDEMILL_KAFKA_STATE:-} ]]; then
        home=$(mktemp -d "${TMPDIR:-/tmp}/tidemill-broker.XXXXXX")
        state_is_ours=yes
    fi
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    any_is_running || trap clean_up EXIT
    start >&2
    TIDEMILL_BOOTSTRAP=$(addresses)
    TIDEMILL_KAFKA_STATE=$home
    export TIDEMILL_BOOTSTRAP TIDEMILL_KAFKA_STATE
    trap 'signals=$((signals + 1)); last=INT' INT
    trap 'signals=$((signals + 1)); last=TERM' TERM HUP
    # In the background, so that a signal to this script is acted upon at once; with the input and the reaction to a Ctrl-C of
    # a command in the foreground.
    (
        trap - INT QUIT
        exec "$@"
    ) <&0 &
    child=$!
    wait "$child" || status=$?
    if ((signals > 0)); then
        # A Ctrl-C has reached the command too, and it may have something to finish; nobody has told it of a TERM yet.
        [[ $last == TERM ]] || await_end "$child" 30
        signal_tree TERM "$child"
        await_end "$child" 30
        signal_tree KILL "$child"
        if [[ $last == TERM ]]; then status=143; else status=130; fi
    fi
    exit "$status"
}

# ---- Kafka's own tools -----------------------------------------------------------------------------------------------

# class_of NAME: the class behind the short name of a tool, which is the name of its script in Kafka's distribution.
class_of() {
    case ${1#kafka-} in
    broker-api-versions) echo org.apache.kafka.tools.BrokerApiVersionsCommand ;;
    cluster) echo org.apache.kafka.tools.ClusterTool ;;
    configs) echo kafka.admin.ConfigCommand ;;
    console-consumer) echo org.apache.kafka.tools.consumer.ConsoleConsumer ;;
    console-producer) echo org.apache.kafka.tools.ConsoleProducer ;;
    consumer-groups) echo org.apache.kafka.tools.consumer.group.ConsumerGroupCommand ;;
    consumer-perf-test) echo org.apache.kafka.tools.ConsumerPerformance ;;
    delete-records) echo org.apache.kafka.tools.DeleteRecordsCommand ;;
    dump-log) echo org.apache.kafka.tools.DumpLogSegments ;;
    features) echo org.apache.kafka.tools.FeatureCommand ;;
    get-offsets) echo org.apache.kafka.tools.GetOffsetShell ;;
    groups) echo org.apache.kafka.tools.GroupsCommand ;;
    producer-perf-test) echo org.apache.kafka.tools.ProducerPerformance ;;
    topics) echo org.apache.kafka.tools.TopicCommand ;;
    transactions) echo org.apache.kafka.tools.TransactionsCommand ;;
    *.*) echo "$1" ;;
    *) die "no tool of that name: $1 (topics, console-consumer, console-producer, consumer-groups, configs, groups," \
        "transactions, get-offsets, delete-records, dump-log, cluster, features, broker-api-versions," \
        "producer-perf-test, consumer-perf-test, or the name of a class)" ;;
    esac
}

tool() {
    (($# > 0)) || die "tool: no name given"
    local name=$1 class address id
    shift
    class=$(class_of "$name")
    # The broker's address, unless the tool takes none or was given one.
    if [[ $class != "$name" && $class != *DumpLogSegments && " $* " != *" --bootstrap-server"* ]]; then
        address=$(bootstrap) || die "no broker runs here: \`scripts/kafka.sh start\`, or set TIDEMILL_BOOTSTRAP"
        # Some want it before their subcommand, `cluster` wants it after.
        case $class in
        *ClusterTool) set -- "$@" --bootstrap-server "$address" ;;
        *) set -- --bootstrap-server "$address" "$@" ;;
        esac
    fi
    if id=$(recall container); then
        exec docker exec -i "$id" /opt/kafka/bin/kafka-run-class.sh "$class" "$@"
    fi
    [[ -d $libs ]] || install_jars
    short_jvm "$class" "$@"
}

tell_status() {
    if is_running; then
        echo "running bootstrap=127.0.0.1:$(recall port) pid=$(recall pid || recall container) data=$(recall data || echo container) state=$state"
    else
        echo "stopped state=$state"
    fi
}

# ---- the command line ------------------------------------------------------------------------------------------------

command=${1:-help}
(($# == 0)) || shift
state_option=""
data_option=""
port_file=""
keep=""
nodes_option=1
node_option=""
proxy_option=""
set_options=()
while (($# > 0)); do
    case $1 in
    --state | --data | --port-file | --set | --nodes | --node | --proxy)
        (($# > 1)) || die "$1 needs a value"
        case $1 in
        --state) state_option=$2 ;;
        --data) data_option=$2 ;;
        --port-file) port_file=$2 ;;
        --set) set_options+=("$2") ;;
        --nodes) nodes_option=$2 ;;
        --node) node_option=$2 ;;
        --proxy) proxy_option=$2 ;;
        esac
        shift 2
        ;;
    --keep)
        keep=yes
        shift
        ;;
    --)
        shift
        break
        ;;
    *) break ;;
    esac
done
[[ $nodes_option =~ ^[1-9]$ ]] || die "--nodes takes a number from 1 to 9"
home=${state_option:-${TIDEMILL_KAFKA_STATE:-${TIDEMILL_KAFKA_HOME:-$cache/run}}}
[[ $home == /* ]] || home=$PWD/$home
[[ ! -d $home ]] || home=$(cd "$home" && pwd -P)
state=$home
[[ -z $node_option || -d $home/node-$node_option ]] || die "there is no node $node_option in $home"
if [[ -f $home/nodes ]] || ((nodes_option > 1)); then heap=256m; else heap=512m; fi
heap=${TIDEMILL_KAFKA_HEAP:-$heap}
case $command in
run | tool) ;;
*) (($# == 0)) || die "$command: unexpected argument $1" ;;
esac

case $command in
install)
    mode=$(choose_mode)
    install_broker "$mode"
    case $mode in
    bootstrap) say "nothing to install: TIDEMILL_BOOTSTRAP is set" ;;
    jars) say "Kafka $version: $libs" ;;
    docker) say "Kafka $version: the image $image" ;;
    esac
    ;;
start) start ;;
stop) stop ;;
kill)
    is_foreign && die "TIDEMILL_BOOTSTRAP names a broker that is not ours"
    each end_broker KILL
    ;;
status)
    address=$(bootstrap) || {
        echo "stopped"
        exit 1
    }
    if is_foreign; then
        echo "TIDEMILL_BOOTSTRAP=$address (not ours)"
    elif any_is_running; then
        each tell_status
    else
        echo "stopped"
        exit 1
    fi
    ;;
env)
    address=$(bootstrap) || die "no broker runs here"
    printf 'export TIDEMILL_BOOTSTRAP=%q\n' "$address"
    is_foreign || printf 'export TIDEMILL_KAFKA_STATE=%q\n' "$home"
    ;;
run) run "$@" ;;
tool) tool "$@" ;;
mode) choose_mode ;;
help | --help | -h) usage ;;
*)
    usage >&2
    exit 2
    ;;
esac
