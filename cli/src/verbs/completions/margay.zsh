#compdef margay
# zsh completion for margay
_margay() {
    local -a found
    found=("${(@f)$(margay complete -- "${(j: :)words[1,CURRENT]}" 2>/dev/null)}")
    found=("${(@)found:#}")
    if (( ${#found} )); then
        found=("${(@)found//:/\\:}")
        found=("${(@)found/$'\t'/:}")
        _describe -o margay found
    else
        _files
    fi
}
if [ "$funcstack[1]" = "_margay" ]; then _margay "$@"; else compdef _margay margay; fi
