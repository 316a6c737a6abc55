"""Between HTTP and the engine: chat templates, tool-call and reasoning parsers, grammars, the backend.

The contract: `backend` is what routes ask for, `backend_options` its settings, `engine_backend` the implementation.

A request's way in, as `engine_backend.generate` goes it:

    checks, admission           every number and list; then the bound on what waits
    text_workers, patience      in the event loop or in a thread
    prompts                     template and tokenizer, whatever the prompt's kind
      chat_templates            messages -> token ids; qwen1_chatml where a checkpoint brings no template
        messages                clients' messages made fit for the template, by its traits (template_probes)
        compiled_template       a template that knows its own control tokens; template_sandbox bounds what it may do
        encode_cache            ids of texts that come again
      reply_grammar             the grammar of the whole reply, from grammars and call_grammars;
        grammar_trials          each is compiled for trial in a process that may die of it (grammar_examiner)
        grammar_tokens          tokens that a grammar names

A reply's way out:

    engine_link                 the live requests of one front, over the lives of its engines
      recovery, trial_turns     who goes to a new engine first, and who is refused for killing engines
    mailbox                     tokens wait for their consumer; nothing is decoded before somebody reads it
    output_assembler            tokens -> text -> stop_strings -> reasoning -> tool_calls, as output_plans says
    logprobs                    log-probabilities with texts and bytes

Where several HTTP processes share an engine, `engine_host` owns it in their parent.
"""
