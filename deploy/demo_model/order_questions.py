"""Ways in which customers ask about one order, in the notation of grammar.py.

`{x}` is the order, with its number ("order 48213") or without ("my parcel"). Used by conversations.py only. The more
these differ from each other, the less the model can lean on any one wording.
"""

PRODUCTS = (
    "shoes|boots|sandals|sneakers|jacket|coat|sweater|jumper|hoodie|dress|skirt|jeans|trousers|shirt|t-shirt|blouse|socks|hat|"
    "scarf|gloves|belt|bag|backpack|suitcase|wallet|watch|ring|necklace|earrings|lamp|chair|desk|table|sofa|shelf|mattress|"
    "pillow|blanket|duvet|curtains|rug|mirror|clock|vase|candles|mug|mugs|kettle|toaster|blender|coffee machine|pan|pots|knife|"
    "knives|plates|glasses|bottle|lunch box|phone|phone case|charger|cable|headphones|earbuds|speaker|keyboard|mouse|monitor|"
    "laptop|tablet|camera|printer|ink|router|games console|controller|board game|puzzle|toy|doll|teddy bear|lego set|book|"
    "books|notebook|pens|bike|bicycle lights|helmet|tent|sleeping bag|yoga mat|dumbbells|football|racket|fishing rod|drill|"
    "hammer|screwdriver set|paint|plants|seeds|flower pots|garden hose|dog bed|dog food|cat tree|cat litter|aquarium|perfume|"
    "shampoo|soap|face cream|lipstick|razor|hair dryer|vitamins|tea|coffee beans|chocolate|wine|gift box|birthday present|"
    "baby clothes|pram|car seat|nappies|wedding dress|costume|sunglasses|umbrella|swimsuit|guitar strings|vinyl record|poster|"
    "picture frame|fan|heater|vacuum cleaner|iron|washing powder|tools|batteries|light bulbs|sewing machine|wool|fabric"
).split("|")

NUMBERED_REFERENCES = (
    "order {n}", "order {n}", "order {n}", "my order {n}", "my order {n}", "my order {n}", "order #{n}", "my order #{n}",
    "order no. {n}", "order no {n}", "order nr. {n}", "order number {n}", "my order number {n}", "order ID {n}", "#{n}", "{n}",
    "my parcel {n}", "parcel {n}", "package {n}", "my package {n}", "my purchase {n}", "purchase no. {n}", "the order {n}",
    "my order ({n})", "my parcel (order {n})", "my [stuff|things|{p}] from order {n}", "the {p} from order {n}", "my {p}, order {n}",
    "my {p} ({n})", "order: {n}", "delivery {n}", "my delivery {n}", "shipment {n}", "my order with the number {n}",
    "order with number {n}", "the parcel for order {n}", "the order numbered {n}", "order ref {n}", "ord {n}", "No. {n}",
    "our order {n}", "my [wife|husband|son|daughter|mother|mum|dad|friend|boss]'s order {n}", "that order, {n}", "nr {n}", "no {n}",
    "my recent order {n}", "my last order {n}", "the {p} ({n})", "my {p} order {n}", "my order of {p}, number {n}",
)
BARE_REFERENCES = (
    "my order", "my order", "my order", "my parcel", "my package", "my stuff", "my delivery", "the order", "my purchase", "my things",
    "my {p}", "my {p}", "the {p} I [ordered|bought|paid for|got from you]", "my shipment", "what I ordered", "the thing I bought",
    "my [wife|husband|son|daughter|mother|mum|dad|friend|boss]'s order", "the parcel", "the package", "our order", "my box", "my goods",
    "the {p}", "my last order", "my recent order", "that order of mine", "everything I ordered", "my items", "the items I ordered",
)
# How a number is named beside a question that does not hold it.
NUMBER_SENTENCES_AFTER = (
    "[The|My|] [order |]number is {n}.", "[It's|It is] [order |number |no. |#|]{n}.", "Order {n}.", "Order number: {n}", "({n})", "#{n}",
    "(order {n})", "Order no. {n}, [thanks|please|thank you].", "[The|My] order [number|no|id|reference] [is|was|:] {n}.", "[That's|This is] order {n}.",
    "Ref {n}", "- {n}", "I mean {n}.", "[My|The] confirmation [says|shows|has] {n}.", "[The|Your] e-mail says [number|order|no.] {n}.",
    "Here is [my|the] number: {n}", "We're talking about {n}.", "Number {n} [please|it is|].", "It was [order|number] {n}.",
    "[I think|I believe] the [order |]number [is|was] {n}.", "order nr {n}", "The order in question: {n}.",
)
NUMBER_SENTENCES_BEFORE = (
    "Order {n}:", "{n}:", "Order {n} -", "Regarding order {n}:", "About [my |]order {n}.", "Re: order {n}.", "[This is|It's] about order {n}.",
    "My order number is {n}.", "I [placed|made|have] [the |an |]order [number |no. |#|]{n}.", "Order number {n}.", "#{n} -", "Concerning {n}:",
    "My [order|number] is {n} [and|so].", "I [have a question|am writing|am calling|am asking] about [order |]{n}.", "For order {n}:", "So, {n}.",
    "[I'm|I am] the customer [of|with|behind] order {n}.", "I [ordered|bought] [a|some|the] {p}[ last week| a while ago| from you| online|], order {n}.",
    "Hi, it's about {n}.", "With [regard|reference] to [my |]order {n}:", "I am holding the receipt for {n}.", "Number {n}.",
)

_ARRIVE = "[arrive|come|get here|be here|turn up|show up|reach me|be delivered|land|be at my door|get delivered|make it here|reach us|be in my hands]"
_STATUS = "[processing|shipped|out for delivery|delayed|delivered|cancelled|returned|refunded|on its way|sent|lost|dispatched|in transit|here|packed]"
_ABOUT = "[about|on|of|for|regarding|with|concerning]"

STATUS_QUESTIONS = (
    "where is {x}?", "where's {x}[ now| at| right now| please|]?", "where [exactly |on earth |in the world |the hell |]is {x}[ now| at the moment| currently| today|]?",
    "where [did|has] {x} [go|gone|got to|ended up]?", "where can {x} be?", "where [might|could] {x} be [now|by now|stuck|hiding|]?",
    f"when [will|does|is going to|would|should|might] {{x}} {_ARRIVE}?", f"when [can|should|may|do] I [expect|get|receive|have|see|hold] {{x}}?",
    "when is {x} [coming|arriving|due|supposed to be here|expected|going to be here|supposed to arrive|getting here|meant to come]?",
    "when [was|were|did] {x} [sent|shipped|leave|go out|delivered|dispatched|posted]?", f"[what day|which day|on what date|what time|how soon] [will|can|does] {{x}} {_ARRIVE}?",
    "how long [until|till|before|will it take until|does it take for] {x} [is here|arrives|comes|gets here|to arrive|to come]?",
    "how [much longer|many more days|long] [do|must|will|should] [I|we] [wait|have to wait|need to wait] for {x}?", "how far [away |along |]is {x}?",
    f"what['s| is|] the [current |latest |actual |]status {_ABOUT} {{x}}[ please| right now|]?", f"[status|update|news|progress|info|ETA] {_ABOUT} {{x}}[ please| pls| thanks|]?",
    "what's [happening|going on|up|the matter|the story|the deal|wrong|the hold-up|new] with {x}?", "what [happened|has happened] to {x}?", "what about {x}?",
    "what is the [estimated |expected |planned |]delivery date [of|for] {x}?", "what [state|stage|condition] is {x} [in|at]?", "[how about|and] {x}?",
    f"is {{x}} [already |still |really |]{_STATUS}[ yet| already| now| or not|]?", f"has {{x}} [already |actually |]been {_STATUS}[ yet| already|]?",
    "has {x} [left|left your warehouse|gone out|shipped|arrived|moved|been sent off|been handed over|been picked up|been posted] [yet|already|]?",
    "did {x} [go out|ship|leave|arrive|get sent|get lost|make it|already leave] [yet|today|yesterday|this morning|]?", "did you [send|ship|post|forget|lose|dispatch] {x} [yet|already|]?",
    "have you [sent|shipped|posted|dispatched|mailed|lost|forgotten] {x} [yet|already|]?", "is {x} [on the way|on its way|coming|lost|late|coming today|coming tomorrow|close|still with you]?",
    f"will {{x}} {_ARRIVE} [today|tomorrow|this week|by Friday|before the weekend|on time|soon|before Christmas|on Monday|in time]?", "is {x} going to [arrive|come|be here] [today|tomorrow|this week|soon|on time]?",
    f"[any|is there any|do you have any|got any|have you any] [news|update|updates|word|information|progress|idea|info] {_ABOUT} {{x}}[ yet| please|]?",
    "[can|could|would|will] you [please |kindly |quickly |maybe |]" "[check|look up|look into|look at|trace|find|track|locate|see about|pull up|go over] {x}[ for me| please| quickly|]?",
    "[can|could|would] you [please |kindly |]" "[tell me|let me know|find out|check|say|see|inform me] [where {x} is|when {x} arrives|what is up with {x}|how {x} is doing|the status of {x}|if {x} was sent|whether {x} left|when {x} will be here]?",
    "please [check|track|trace|look up|find|locate|look into] {x}[ for me| thanks|].", "please [tell me|let me know|say] [where {x} is|when {x} comes|how far {x} is|what the status of {x} is|whether {x} has shipped].",
    "[track|check|trace|status|find|look up|lookup|show|tell me about|give me the status of|show me] {x}", "[tracking|tracking info|delivery status|order status|delivery date|shipping status] [for |of |]{x}[ please|]",
    "I [want|need|would like|'d like|wish|'d love|am trying|have] to [know|find out|check|ask|see|learn] [where {x} is|when {x} arrives|the status of {x}|about {x}|what happened to {x}|when {x} will come|if {x} is on its way]",
    "I [am|'m] [still |] waiting for {x}[, where is it?|.|, any news?|, when will it come?| and hear nothing.]", "I [still |] [have not|haven't|have never|did not|didn't] [received|got|seen|gotten|get|receive|see] {x}[ yet| so far| until now|].",
    "{x} [has not|hasn't|still hasn't|never|has still not] [arrived|come|shown up|turned up|reached me|been delivered|moved|appeared][ yet| so far|].", "{x} [is|seems|must be|looks] [late|missing|lost|overdue|stuck|gone|delayed|nowhere to be found][.|, what now?|, please check.]",
    "{x} was [supposed|meant|due|expected] to [arrive|come|be here|be delivered] [yesterday|today|last week|days ago|on Monday|two days ago].", "[nothing|no sign|no trace|not a trace|no word] of {x} [yet|so far|until today|anywhere].",
    "[I wonder|I was wondering|I'm wondering|just wondering|wondering|curious] [where {x} is|when {x} will arrive|about {x}|what is happening with {x}|how {x} is getting on].", "[do|did] you [know|happen to know|see|have any idea] [where {x} is|when {x} comes|what {x} is doing|how {x} is]?",
    f"[can|could|please] [you |] confirm [that|if|whether] {{x}} [was|has been|is|will be] {_STATUS}[.|?]", f"[is it true|am I right|so is it correct] that {{x}} [was|is|has been] {_STATUS}?", f"[just |please |]tell me {{x}} [is|was|has been] {_STATUS}.",
    f"[the app|your website|the carrier|the tracking page|your e-mail|my neighbour|the driver|your colleague] [says|said|claims|told me] {{x}} [is|was|has been] {_STATUS}[.|, is that right?|, is it?|, really?|, but I have nothing.]",
    f"I [heard|think|believe|hope|guess|was told|read] {{x}} [is|was|has been] {_STATUS}[.|, correct?|, right?|, is that so?|, can you check?]", "[which|what|who is the] [carrier|courier|delivery company|shipping company] [has|brings|is bringing|delivers|took|for|of] {x}?",
    "who [is bringing|brings|delivers|is delivering|has|ships|carries] {x}?", "[help me find|I can't find|I cannot find|I lost track of|I'm looking for|looking for|searching for|I am after] {x}.", "[do I|will I] [get|receive|have|see] {x} [today|tomorrow|soon|this week|at all|ever|before Sunday]?",
    "[should|must|do] I [be home|stay home|wait at home|worry|be worried] [for|about|because of] {x} [today|tomorrow|]?", "[give|send] me [an update|the latest|a status|some news|details|the tracking] on {x}.", "[let's|let us] [check|see|talk about] {x}.", "{x}?", "{x} please", "{x} status", "{x} where", "{x} when?",
    "the [tracking|tracking link|tracking page|tracking number|tracking code] for {x} [does not work|shows nothing|is empty|is dead|never changes|is broken|has not changed for days].", "[my question is|the question is|I ask myself|what I want to know is] [where {x} is|when {x} arrives|what the status of {x} is].",
    "{x} [is taking|takes|has taken] [forever|ages|so long|too long|a long time|very long|an eternity].", "it's been [two|three|four|ten|five|many] [days|weeks] since I [ordered|paid for|bought] {x}.", "I [ordered|bought|paid for] {x} [last week|days ago|ages ago|weeks ago|on Monday|a month ago] [and nothing came|and still nothing|but it is not here|, where is it?|and I want to know when it comes].",
    "any chance {x} [comes|arrives|gets here|will be here] [today|this week|soon|tomorrow]?", "why [is|has] {x} [not here|not arrived|so late|still not shipped|taking so long|not moving|not delivered]?", "why [have|did] I not [received|got|get|receive] {x}[ yet|]?", "why [haven't|didn't] I [get|receive|received|got] {x}[ yet|]?",
    "what is [keeping|holding up|delaying] {x}?", "how is {x} [doing|coming along|getting on|going|progressing]?", "how's {x} [doing|looking|coming|going]?", "I expected {x} [yesterday|last week|earlier|sooner|by now].", "I [am|'m] [worried|anxious|nervous|asking|curious|excited|calling|writing|here] [about|because of|for|regarding] {x}.",
    "got a question [about|on] {x}, where is it?", "see if {x} [has shipped|is on its way|is coming|left|will come today].", "whereabouts of {x}?", "[ETA|eta] [on|of|for] {x}?", "[wheres|wher is|were is|whens] {x}", "has [the courier|the driver|the postman|anyone|somebody|someone|your warehouse] [got|taken|picked up|collected|sent|packed] {x} [yet|already|]?",
    "I'd [like|love] to [hear|see] how {x} [fares|is doing|gets along].", "[so |] {x} is [not|no longer|never] [sent|coming|being sent|going to be sent|delivered][ any more| after all| now|], [right|correct|is that so|yes]?", "[nobody|no one] [sends|is sending|delivers|ships] {x}[ any more| after all| now|], [right|correct|true]?",
    "which [day|date] [should|can|do] I [expect|plan for|wait for] {x}?", "at what point will {x} [be here|arrive|come]?", "is there a [date|day|delivery date|time|plan] for {x}?", "do we have a [date|delivery date|day|status] for {x}?",
)
# Said of an order without naming it in any way: no parcel has come, and that is all.
UNNAMED_STATUS = (
    "[still |] no [parcel|package|delivery|box|order|post|shipment][ today| so far| again| here| at my door| until now|]", "nothing [came|arrived|was delivered|has come|here][ today| yet| so far| again| until now|]", "[I am|we are|I'm|we're] still waiting[ here| at home| for it| for you|]",
    "did you [post|ship|mail|send|pack] it[ out| already| today| at all|]?", "have you [posted|shipped|sent|packed|mailed] it[ off| out| already| today| at last|]?", "[was|has] it [been |] [posted|shipped|sent off|packed|sent out][ today| already| at last|]?", "[is|was] it [already |] on a [truck|van|plane|ship|lorry]?",
    "we [hoped for|expected|reckoned with|were promised|waited for|planned on] [it|the parcel|the package|a delivery|the driver|the courier|the goods] [on Friday|on Monday|last Friday|last Tuesday|yesterday|this morning|by Wednesday|days ago][, but no|, nothing came|].",
    "I [hoped for|expected|reckoned with|was promised|waited for|planned on] [it|the parcel|the package|a delivery|the driver|the courier|the goods] [on Friday|on Monday|last Friday|last Tuesday|yesterday|this morning|by Wednesday|days ago][, but no|, nothing came|].",
    "[my|the|our] [parcel|package|order|delivery|box]? [two|three|four|five|six|seven|eight|ten|twelve] [days|weeks] [now|already|and waiting|of waiting|and nothing|gone|have passed].", "[two|three|four|five|six|seven|eight|ten|twelve] [days|weeks] [now|already|and waiting|of waiting|and nothing yet|have passed], where's [my|the|our] [parcel|package|order|delivery|box]?",
    "[when|what day] is [the|my|our] [driver|courier|postman|delivery] [coming|here|due]?", "should it not [be here|have come|have arrived][ by now| already|]?", "it [should|was to|ought to] [be here|have come|have arrived][ by now| already| yesterday|].", "how long [till it comes|do I wait|must we wait|is the wait][ for it|]?",
    "[the|my] [delivery|parcel] [never came|did not come|is late|is overdue].", "I [have|got|received] nothing[ yet| so far| from you|].", "[so |] when do I get it?", "any [news|sign|update] for me?",
)
ITEM_QUESTIONS = (
    "{x}: [what is|give me|tell me] [its|the] [price|sum|amount|total]?", "what is [its|the] [price|sum|amount|total], {x}?", "[the|] [price|total|sum] and [the |] [piece count|item count|how many things|how many items] [in|of|for] {x}[ please|]?", "{x}, [price|total|sum|amount] [please|]?", "{x}, what did it [cost|come to][ me| us| in all|]?",
    "[give|send|tell] me the [number|count] of [pieces|things|items|products] and [the |] [cost|price|total|sum], {x}.", "{x}: [how many|number of] [items|pieces|things|products] and [how much|what price|at what price]?",
    "how many [items|things|articles|pieces|products] [are|were|did I have|do I have] [in|on|with] {x}?", "what [is|was] the [total|price|amount|sum|total price|full price|value] [of|for|on] {x}?", "how much [is|was|did I pay for|do I pay for|does it cost,|did it cost,|have I paid for|must I pay for] {x}?",
    "how much did {x} cost[ me| in total|]?", "what did {x} cost?", "what did I pay for {x}?", "how [big|large|expensive] [is|was] {x}?", "number of items in {x}?", "total [for|of] {x}?", "[tell me|I need|show me|give me|I want to know] the [total|price|amount|number of items|item count|sum] [of|for|in] {x}.",
    "what [sum|amount] [is|was] [charged|billed|due] for {x}?", "how many [items|pieces|things|products] did {x} [have|contain|include]?", "count the items in {x}.", "how many [products|items|things] [did I order|did I buy|were bought] in {x}?", "what does {x} [contain|come to|add up to|cost]?",
    "[can|could] you tell me [how many items {x} has|how much {x} was|the total of {x}|what {x} cost]?", "is {x} [one item|two items|three items] or more?",
)
# Questions that lean on what was said before: no order is named.
FOLLOW_UP_STATUS = (
    "when will it [arrive|come|be here|get here]?", "and when [will|does] [it|that] [arrive|come|get here]?", "where is it[ now| exactly|]?", "so where is it?", "[and |]when [is it coming|can I expect it|do I get it|will I have it]?", "is it on its way?", "has it [shipped|left|been sent] [yet|]?",
    "which day [exactly |]?", "what date was that again?", "sorry, what was the [date|status|day] [again|]?", "can you [repeat|say] that[ again|]?", "who is [bringing|delivering|sending] it?", "so is it [late|delayed|shipped|delivered|cancelled|lost]?", "what is its status?", "[will|does] it come [today|tomorrow|this week]?",
    "and the status?", "are you sure?", "ok, and the date?", "[which|what] carrier [is it|was that|]?", "so [was|is] it [delivered|shipped|sent|cancelled] [or not|]?", "what's the latest on it?", "[tell me|say] once more [please|]", "any date for it?", "what about the date?", "has anything changed?", "can you check again?",
)
FOLLOW_UP_ITEMS = ("what did it cost?", "how much did I spend?", "what was the price?", "how much was that?", "how much did it come to?", "and what was the sum?", "and how many items [did I order|were there|did it have]?", "what about the total?", "what's the total?", "price?", "how many items?", "how many items [is|was|are] [it|that|in it]?", "and how much did it cost?", "what was the total?", "how much did I pay?", "and the price?", "how many things are in it?", "what did I pay for it?", "and the total?", "how many pieces?")
FOLLOW_UP_OTHER_ORDER = ("[and |]what about {x}?", "[and |]{x}?", "and where is {x}?", "I also [have|ordered|placed] {x}.", "there is [also|another one,] {x}.", "can you check {x} too?", "same question for {x}.", "and when does {x} come?", "sorry, I meant {x}.", "oh wait, it is {x}.", "no, {x}.", "wrong number, it's {x}.", "now {x} please", "[my|a] mistake, {x} it is.", "[my bad|oops|oh|I mistyped|pardon|apologies][,|:] [it is|I mean|I meant|that should be|it should be|the right one is|correct is] {x}.", "[not that one|not this one|no, no], {x}.", "I [gave|sent|typed] the wrong [number|one], {x} [is right|is it|is mine].")
ONLY_NUMBER = ("{n}", "it is {n}", "it's {n}", "the number is {n}", "order {n}", "#{n}", "sure, {n}", "ok: {n}", "here it is: {n}", "my order number is {n}", "{n}, [please|thanks|thank you]", "yes, {n}", "number {n}", "no. {n}", "order number {n}", "I think it's {n}", "one moment... {n}", "found it: {n}", "of course, order {n}", "that would be {n}", "should be {n}", "let me see, {n}", "the e-mail says {n}")
