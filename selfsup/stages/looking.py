"""The commands `data` and `doctor`, which look and change nothing: their words, what they print, and how they end."""

from dataclasses import replace

from selfsup.output import complain, print_figures, read_by_people
from selfsup.usage import first_word, flags_told, leading_words, only_help

_DATA = "selfsup data PATH ... [--out FILE.html] [--strict] [flags]"


def look_at_data(arguments: list[str]) -> int:
    """`selfsup data`: 1 where --strict is given and an image cannot be read. JSON where there is no terminal."""
    from selfsup.config.flags import flags_in, parse
    from selfsup.stages.survey_settings import DATA_EXAMPLE, Survey

    if arguments[:1] in (["-h"], ["--help"]):
        flags_told(f"{_DATA}\n\n{DATA_EXAMPLE}", Survey, "selfsup data PATH")
    paths, flags = leading_words(arguments)
    named = "--data.root" in flags_in(flags)
    if not paths and not named:
        first_word([], "the path of the images", _DATA)
    if paths and named:
        raise ValueError(f"{paths[0]} and --data.root both name images; give the paths alone")
    settings = parse(Survey(), flags, f"selfsup data {' '.join(paths)}".rstrip())
    if paths:
        root = paths[0] if len(paths) == 1 else tuple(paths)
        settings = replace(settings, data=replace(settings.data, root=root))
    from selfsup.stages.surveying import run_survey

    told = run_survey(settings)
    if not read_by_people():
        print_figures(told)
    return int(settings.strict and told["unreadable_images"] > 0)


def look_at_installation(arguments: list[str]) -> int:
    """`selfsup doctor`: 1 where something that selfsup needs is broken. JSON where there is no terminal."""
    if only_help(arguments, "selfsup doctor   (what is installed here, what works, and what is missing)", "doctor"):
        return 0
    from selfsup.stages.doctor import examined

    found = examined()
    for line in found.lines():
        complain(line)  # which needs no package
    if not read_by_people():
        print_figures(found.figures())
    return int(bool(found.broken))
