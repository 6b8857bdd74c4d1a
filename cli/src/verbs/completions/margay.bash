# bash completion for margay
_margay() {
    local line="${COMP_LINE:0:COMP_POINT}" current="${COMP_WORDS[COMP_CWORD]}" word start
    mapfile -t COMPREPLY < <(margay complete -- "$line" 2>/dev/null)
    COMPREPLY=("${COMPREPLY[@]%%$'\t'*}")
    # bash takes colons and equals signs for the ends of words.
    word="${line##*[[:space:]]}"
    start="${word%"$current"}"
    COMPREPLY=("${COMPREPLY[@]#"$start"}")
}
complete -o default -o bashdefault -F _margay margay
