# Completion of bridgewarden for bash; made of its parser.
_bridgewarden() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command= i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        [[ ${COMP_WORDS[i]} == -* ]] || { command=${COMP_WORDS[i]}; break; }
    done
    local options= places= takes_file= takes_name= takes_word=
    case $command in
        '') options='-h --help' places='status ready rules top endpoints unmanaged explain confirm rollback seal log trace hooks sync policy boot agent' ;;
        status) options='-h --help --json' places='' ;;
        ready) options='-h --help --json' places='' ;;
        rules) options='-h --help --json --all' places='' ;;
        top) options='-h --help --json --interval --count' places='' takes_word='--interval --count' ;;
        endpoints) options='-h --help --json --docker-socket' places='' takes_word='--docker-socket' ;;
        unmanaged) options='-h --help --json --docker-socket' places='' takes_word='--docker-socket' ;;
        explain) options='-h --help --json --docker-socket --direct --policy' places='names' takes_file='--policy' takes_word='--docker-socket' ;;
        confirm) options='-h --help --json --generation' places='' takes_word='--generation' ;;
        rollback) options='-h --help --json --generation' places='' takes_word='--generation' ;;
        seal) options='-h --help --json --generation' places='' takes_word='--generation' ;;
        log) options='-h --help --json --docker-socket --group --count' places='' takes_word='--docker-socket --group --count' ;;
        trace) options='-h --help --json --docker-socket --proto --from --to --port --container --namespace --guard --dropped --include-session --count --seconds --events --rate --record --replay' places='' takes_file='--record --replay' takes_name='--container --namespace' takes_word='--docker-socket --proto --from --to --port --guard --count --seconds --events --rate' ;;
        hooks) options='-h --help --json --docker-socket' places='names' takes_word='--docker-socket' ;;
        sync) options='-h --help --json --docker-socket' places='' takes_word='--docker-socket' ;;
        policy) options='-h --help --json' places='' ;;
        boot) options='-h --help --json' places='' ;;
        agent) options='-h --help --json --docker-socket --metrics --metrics-textfile --metrics-listen' places='' takes_file='--metrics-textfile' takes_word='--docker-socket --metrics --metrics-listen' ;;
    esac
    if [[ " $takes_file " == *" $before "* ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
    elif [[ " $takes_name " == *" $before "* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(docker ps --format '{{.Names}}' 2>/dev/null)" -- "$word")
    elif [[ " $takes_word " == *" $before "* ]]; then
        COMPREPLY=()
    elif [[ $word == -* || -z $places ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
    elif [[ $places == names ]]; then
        mapfile -t COMPREPLY < <(compgen -W "host world $(docker ps --format '{{.Names}}' 2>/dev/null)" -- "$word")
    else
        mapfile -t COMPREPLY < <(compgen -W "$places" -- "$word")
    fi
}
complete -F _bridgewarden bridgewarden
